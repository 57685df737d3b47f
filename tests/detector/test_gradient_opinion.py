"""The check of gradients: exact, or coarse where float64 lacks an operator or time; of the right layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from observing import ROWS
from sparsense.autodiff.rule import RULES, Rule
from sparsense.data.dataset import Dataset
from sparsense.detector import attach_to_file
from sparsense.detector.gradient_opinion import gradient_opinion
from sparsense.errors import ExportError, UnsupportedOperatorError
from sparsense.graph import forward_graph
from sparsense.graph.load import load_graph
from sparsense.heads import make_head
from tiny_classifier import tiny_data, tiny_graph

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(200, 6)).astype(np.float32)
FIT, HELD_OUT = Dataset("fit", INPUTS[:120]), Dataset("held out", INPUTS[120:])
node = helper.make_node
BODY = [
    node("Gemm", ["front", "w1"], ["a"], "w1"),
    node("Sigmoid", ["a"], ["r"]),
    node("Gemm", ["r", "w2", "b"], ["y"], "w2"),
]


def rows_model(front: list[onnx.NodeProto], width: int = 6, bias: float = 0.0) -> onnx.ModelProto:
    """6 numbers -> `front`, of some width -> 16 -> 3 logits."""
    weights = {
        "w0": RANDOM.normal(size=(6, 4)).astype(np.float32),
        "w1": RANDOM.normal(size=(width, 16)).astype(np.float32),
        "w2": RANDOM.normal(size=(16, 3)).astype(np.float32),
        "b": np.full(3, bias, np.float32),
        "squares": np.array([0, 2, 2]),
        "last": np.array([1]),
    }
    graph = helper.make_graph(
        [*front, *BODY],
        "rows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


STRANGE = [node("QuickGelu", ["x"], ["front"], domain="com.microsoft")]
DETERMINANT = [
    node("Gemm", ["x", "w0"], ["z"], "w0"),
    node("Reshape", ["z", "squares"], ["q"]),
    node("Det", ["q"], ["d"]),
    node("Unsqueeze", ["d", "last"], ["front"]),
]


def attach(folder: Path, model: onnx.ModelProto, name: str, **options: object) -> dict[str, object]:
    onnx.save(model, folder / "model.onnx")
    head = make_head(name, options)
    card = attach_to_file(
        folder / "model.onnx", head, folder / "detector.onnx", fit=FIT, calibration=HELD_OUT, preprocessing=ROWS
    )
    return card["checks"]["gradient"]


def test_an_operator_without_a_reference_implementation_is_checked_in_float32(tmp_path: Path) -> None:
    """QuickGelu in front of all layers: no gradient crosses it, and onnx cannot evaluate it."""
    found = attach(tmp_path, rows_model(STRANGE), "sensnorm_profile")
    assert found["with"].startswith("finite differences in float32 (float64 failed: NotImplementedError")
    assert found["error"] < found["tolerance"] == 0.05


def test_a_wrong_rule_is_found_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = RULES["Sigmoid"]
    wrong = Rule(lambda index: lambda op, delta, call: op.Mul(right.product(index)(op, delta, call), 1.3))
    monkeypatch.setitem(RULES._entries, "Sigmoid", wrong)
    with pytest.raises(ExportError, match=r"within 5e-02 of finite differences of the forward graph, found .* 'w1'"):
        attach(tmp_path, rows_model(STRANGE), "sensnorm_profile")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_differences_that_are_rounding_say_nothing() -> None:
    """Logits of a hundred thousand have few digits for what a weight changes, and those of ten millions none."""
    for bias in (1e5, 1e7):
        found = gradient_opinion(forward_graph(load_graph(rows_model(STRANGE, bias=bias)), ROWS), INPUTS[:4])
        assert found["error"] is None
        assert found["with"].endswith("; their own error is larger than the tolerance")


def test_a_slow_evaluation_is_replaced() -> None:
    inputs = tiny_data("fit", 60, seed=0).inputs[:2]
    exact, coarse = (gradient_opinion(tiny_graph(), inputs, seconds=seconds) for seconds in (600.0, 1e-9))
    assert exact["with"] == "finite differences in float64"
    assert exact["error"] < 1e-7
    assert coarse["with"] == "finite differences in float32 (float64 takes more than 0 s)"
    assert exact["error"] < coarse["error"] < 0.05


def test_only_the_layers_that_the_members_of_a_fusion_look_at_are_checked(tmp_path: Path) -> None:
    """The determinant behind `w0` has no rule; each member has chosen layers behind it."""
    model = rows_model(DETERMINANT, width=1)
    members = [
        {"name": "sensnorm_profile", "options": {"layers": ["w1"]}},
        {"name": "purview", "options": {"layers": 1}},
        "energy",
    ]
    assert attach(tmp_path, model, "fusion", members=members)["error"] < 1e-6
    network = forward_graph(load_graph(model), ROWS)
    head = make_head("fusion", {"members": members})
    assert [layer.name for layer in head.differentiated(network)] == ["w1", "w2"]
    assert make_head("fusion", {"members": ["energy", "msp"]}).differentiated(network) == []
    with pytest.raises(UnsupportedOperatorError, match="Det"):
        attach(tmp_path, model, "fusion", members=["sensnorm_profile", "energy"])
