"""The detector as a file: written only when it agrees with its oracle, and asked again at any time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.detector.micro_batch import micro_batch
from sparsense.errors import InputError
from sparsense.files import atomic_write
from sparsense.graph.sparse_form import smaller_form
from sparsense.parity import Parity, compare, require
from sparsense.runtime import CARD_FORMAT, CARD_KEY, ExportedDetector

PARITY_KEY = "sparsense.parity"
WHOLE = 64
"""Samples run at once when a file is compared with its oracle: more than it is compared on."""
Array = NDArray[Any]


def write_detector(
    model: ir.Model,
    path: Path,
    *,
    card: Mapping[str, Any],
    parity: Parity,
    seen: Mapping[str, str] | None = None,
    stored: Parity | None = None,
) -> list[dict[str, Any]]:
    """Write the file under a temporary name, compare it with the oracle, and keep it only if it agrees.

    Weights with many zeros are stored sparse where that makes the file smaller and ONNX Runtime the same outputs.

    Args:
        model: The closed graph.
        path: Where to.
        card: What the file says about itself.
        parity: The oracle's scores.
        seen: Hashes of the inputs that it was made from, `seen.properties`.
        stored: The part of `parity` that the file keeps; default: all of it.

    Returns:
        The parity rows, also for the card.

    Raises:
        ExportError: The numbers differ; nothing is left behind.
    """
    proto = ir.to_proto(model)
    written = {"format": CARD_FORMAT, **card, "micro_batch": micro_batch(model)}  # of this graph, not of an older one
    properties = {CARD_KEY: json.dumps(written), PARITY_KEY: (stored or parity).pack()}
    onnx.helper.set_model_props(proto, {**properties, **(seen or {})})
    onnx.checker.check_model(proto)
    content, _ = smaller_form(proto.SerializeToString(), {"input": parity.inputs}, path.name)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
        detector = ExportedDetector(temporary, threads=1, micro_batch=WHOLE)
        rows = compare(lambda inputs: detector(inputs).score, parity)
        require(rows, what=str(path), oracle=parity.oracle)
    return rows


def verify(path: str | Path, *, providers: Sequence[str] = ("CPUExecutionProvider",)) -> list[dict[str, Any]]:
    """Score the inputs stored in a detector again and compare with the oracle's scores stored beside them.

    Returns:
        A row per batch size: `batch`, `inputs`, `error`, `tolerance`, `agrees`.
    """
    detector = ExportedDetector(path, providers=providers, micro_batch=WHOLE)
    stored = detector.metadata.get(PARITY_KEY)
    if stored is None:
        raise InputError(
            f"verifying {path}: expected stored parity inputs in its metadata, found none; export the detector again"
        )
    return compare(lambda inputs: detector(inputs).score, Parity.unpack(stored))


def parity_inputs(inputs: Array, *, count: int = 32, maximum_bytes: int = 128 * 1024, seed: int = 0) -> Array:
    """Inputs to compare on: half of them given ones, half random, so that odd inputs are seen too.

    Args:
        inputs: Held-out inputs as the detector takes them.
        count: At most so many.
        maximum_bytes: They are stored in the file: large inputs mean fewer of them, but at least 2.
        seed: Of the choice.
    """
    random = np.random.default_rng(seed)
    count = int(np.clip(maximum_bytes // max(inputs[0].nbytes, 1), 2, count))
    given = inputs[random.permutation(len(inputs))[: count - count // 2]]
    if (
        inputs.dtype == np.float32 and np.isnan(given).any()
    ):  # a table with gaps: values of other rows, column by column
        made = random.permuted(np.resize(given, (count - len(given), *given.shape[1:])), axis=0)
    elif inputs.dtype == np.uint8:
        made = random.integers(0, 256, (count - len(given), *inputs.shape[1:])).astype(np.uint8)
    else:
        made = (given.mean(0) + given.std(0) * random.standard_normal((count - len(given), *inputs.shape[1:]))).astype(
            np.float32
        )
    return np.concatenate([given, made])
