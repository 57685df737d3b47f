"""Detector-like ONNX files with a score that can be computed by hand: the mean of the raw input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

CALIBRATION = np.arange(1, 100, dtype=np.float32)  # 99 scores; at rate 0.05 the threshold is 95
CARD: dict[str, Any] = {
    "format": 1,
    "name": "tiny",
    "preprocessing": {"layout": "NHWC", "dtype": "uint8", "scale": 1 / 255, "mean": [0.0], "std": [1.0]},
    "calibration": {"rate": 0.05, "threshold": 95.0, "n": 99, "interval": [0.017, 0.1]},
}
ELEMENT = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def card(**preprocessing: object) -> dict[str, Any]:
    """The card of a tiny detector with other preprocessing."""
    return CARD | {"preprocessing": CARD["preprocessing"] | preprocessing}


def write_detector(
    path: Path,
    *,
    shape: tuple[int | str, ...] = ("N", 4, 5, 3),
    card: dict[str, Any] | str | None = CARD,
    outputs: tuple[str, ...] = ("score", "p_value", "is_anomaly", "output"),
    fixed_threshold: bool = False,
) -> Path:
    """score = mean of the raw input; p_value and is_anomaly from `CALIBRATION`; output = [score, -score].

    Args:
        path: Where to write it.
        shape: Of the input, batch axis included.
        card: None writes none, a text is written as it is.
        outputs: Which of the four outputs the graph declares.
        fixed_threshold: The threshold is a constant that no call can replace.
    """
    dtype = card["preprocessing"]["dtype"] if isinstance(card, dict) else "uint8"
    kinds = {"score": TensorProto.FLOAT, "p_value": TensorProto.FLOAT, "is_anomaly": TensorProto.BOOL}
    threshold = helper.make_tensor_value_info("threshold", TensorProto.FLOAT, [])
    graph = helper.make_graph(
        _nodes(),
        "tiny",
        [helper.make_tensor_value_info("input", ELEMENT[dtype], shape), *([] if fixed_threshold else [threshold])],
        [
            helper.make_tensor_value_info(
                name, kinds.get(name, TensorProto.FLOAT), ["N", 2] if name == "output" else ["N"]
            )
            for name in outputs
        ],
        [numpy_helper.from_array(value, name) for name, value in _constants().items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if card is not None:
        entry = model.metadata_props.add()
        entry.key, entry.value = "sparsense.card", card if isinstance(card, str) else json.dumps(card)
    save(model, path)
    return path


def _nodes() -> list[Any]:
    node = helper.make_node
    return [
        node("Cast", ["input"], ["real"], to=TensorProto.FLOAT),
        node("Reshape", ["real", "rows"], ["flat"]),
        node("ReduceMean", ["flat", "last"], ["score"], keepdims=0),
        node("Unsqueeze", ["score", "last"], ["column"]),
        node("GreaterOrEqual", ["calibration", "column"], ["above"]),
        node("Cast", ["above"], ["ones"], to=TensorProto.FLOAT),
        node("ReduceSum", ["ones", "last"], ["count"], keepdims=0),
        node("Add", ["count", "one"], ["rank"]),
        node("Div", ["rank", "total"], ["p_value"]),
        node("Greater", ["score", "threshold"], ["is_anomaly"]),
        node("Neg", ["column"], ["negative"]),
        node("Concat", ["column", "negative"], ["output"], axis=1),
    ]


def _constants() -> dict[str, np.ndarray]:
    return {
        "rows": np.array([0, -1]),
        "last": np.array([1]),
        "calibration": CALIBRATION[None],
        "one": np.array(1, np.float32),
        "total": np.array(len(CALIBRATION) + 1, np.float32),
        "threshold": np.array(95, np.float32),
    }
