"""From a forward graph and a head to one calibrated file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.calibrate import Calibration, calibrate
from sparsense.data.dataset import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import CalibrationError, ExportError, InputError
from sparsense.files import atomic_write
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.graph.run import stream
from sparsense.heads.head import Head
from sparsense.parity import Parity, compare, require
from sparsense.runtime import CARD_FORMAT, CARD_KEY, ExportedDetector

PARITY_KEY = "sparsense.parity"
Array = NDArray[Any]
Progress = Callable[[str, int, int], None]
"""`(what, done, of)`, called after every batch."""


def silent(what: str, done: int, of: int) -> None:
    """The progress that nobody sees."""


@dataclass(frozen=True)
class Scored:
    """A network with a fitted head: the graph gives scores, but knows no threshold yet."""

    network: ForwardGraph
    head: Head
    score: ir.Value

    def scores(self, inputs: Array, *, batch_size: int = 64) -> Array:
        """Scores [N] of inputs as the detector takes them."""
        batches = stream(self.network.model, [self.score], inputs, batch_size=batch_size)
        return np.concatenate([batch[0] for batch in batches])


@dataclass(frozen=True)
class _Feed:
    """Runs graphs over the fitting data, with labels where the graph asks for them."""

    data: Dataset
    inputs: Array
    batch_size: int
    progress: Progress

    @property
    def has_labels(self) -> bool:
        return self.data.labels is not None

    def __call__(self, network: ForwardGraph, values: Sequence[ir.Value]) -> Iterator[list[Array]]:
        columns = [self.inputs]
        if any(value.name == "labels" for value in network.model.graph.inputs) and self.data.labels is not None:
            columns.append(self.data.labels)
        done = 0
        for batch in stream(network.model, values, *columns, batch_size=self.batch_size):
            done = min(done + self.batch_size, len(self.data))
            self.progress(f"fitting on {self.data.name}", done, len(self.data))
            yield batch


def fit_head(
    network: ForwardGraph,
    head: Head,
    data: Dataset,
    *,
    preprocessing: Preprocessing,
    batch_size: int = 64,
    progress: Progress = silent,
) -> Scored:
    """Observe, fit and score: the head learns from in-distribution data, streamed through ONNX Runtime.

    Args:
        network: The forward graph; it is copied.
        head: A fresh head.
        data: In-distribution inputs; labels where the head needs them.
        preprocessing: The network's; tells the layout of its input.
        batch_size: Samples at once; does not change the result beyond rounding.
        progress: Called after every batch.

    Raises:
        InputError: The head needs labels and the data has none, or is for another task.
    """
    if head.needs_labels and data.labels is None:
        raise InputError(
            f"fitting head {head.name!r}: it needs labels, and {data.name!r} has none; "
            "give labels or choose another head"
        )
    if head.task not in (network.task, "any"):
        raise InputError(f"fitting head {head.name!r}: it is for a {head.task}, and this network is a {network.task}")
    feed = _Feed(data, preprocessing.arrange(data.inputs), batch_size, progress)
    head.prepare(network.copy(), feed)
    network = network.copy()
    observed = head.observe(network)
    head.fit((batch[0] for batch in feed(network, [observed])), data.labels)
    score = head.score(network.op, observed)
    if score.dtype != ir.DataType.FLOAT or score.shape is None or len(score.shape) != 1:
        raise ExportError(
            f"attaching head {head.name!r}: expected float32 scores [N], found {score.dtype} {score.shape}"
        )
    return Scored(network, head, score)


def calibrated(scored: Scored, scores: Array, rate: float) -> tuple[ir.Model, Calibration]:
    """Close the graph: score, p-value, decision and the network's output, for an asked false-alarm rate.

    Args:
        scored: A network with a fitted head.
        scores: Scores of held-out in-distribution inputs, `[n]`.
        rate: Asked false-alarm rate.

    Returns:
        A model with inputs `input` and `threshold` (which has a default) and outputs `score`, `p_value`,
        `is_anomaly`, `output`; and the calibration.
    """
    if not np.isfinite(scores).all():
        raise CalibrationError(
            f"calibrating head {scored.head.name!r}: {(~np.isfinite(scores)).sum()} of {len(scores)} scores are NaN or "
            "infinite; check the calibration data"
        )
    calibration = calibrate(scores, rate)
    network = scored.network.copy()
    graph, op = network.model.graph, network.op
    score = next(output for node in graph for output in node.outputs if output.name == scored.score.name)
    threshold = _threshold(graph, calibration.threshold)
    outputs = {
        "score": op.Identity(score),
        "p_value": p_value(op, score, np.sort(scores).astype(np.float32)),
        "is_anomaly": op.Greater(score, threshold),
        "output": op.Identity(network.output) if network.output.name != "output" else network.output,
    }
    for name, value in outputs.items():
        value.name = name
        value.shape = ir.Shape(["N", *list(value.shape or ["N"])[1:]])
    graph.outputs[:] = list(outputs.values())
    return network.model, calibration


def _threshold(graph: ir.Graph, default: float) -> ir.Value:
    """An initializer that is also an input: a caller may give another one."""
    value = ir.Value(name="threshold", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.FLOAT))
    value.const_value = ir.tensor(np.asarray(default, np.float32), name="threshold")
    graph.inputs.append(value)
    graph.register_initializer(value)
    return value


def p_value(op: Builder, score: ir.Value, calibration: NDArray[np.float32]) -> ir.Value:
    """(1 + #{calibration >= score}) / (n + 1) for scores [N], against sorted calibration scores [n]."""
    exceeded = op.GreaterOrEqual(calibration[None, :], op.Unsqueeze(score, [1]))
    count = op.ReduceSum(op.Cast(exceeded, to=int(ir.DataType.FLOAT)), [1], keepdims=0)
    return op.Mul(op.Add(count, 1.0), 1 / (len(calibration) + 1))


def write_detector(model: ir.Model, path: Path, *, card: Mapping[str, Any], parity: Parity) -> list[dict[str, Any]]:
    """Write the file under a temporary name, compare it with the oracle, and keep it only if it agrees.

    Returns:
        The parity rows, also for the card.

    Raises:
        ExportError: The numbers differ; nothing is left behind.
    """
    proto = ir.to_proto(model)
    onnx.helper.set_model_props(
        proto, {CARD_KEY: json.dumps({"format": CARD_FORMAT, **card}), PARITY_KEY: parity.pack()}
    )
    onnx.checker.check_model(proto)
    with atomic_write(path) as temporary:
        onnx.save(proto, temporary)
        detector = ExportedDetector(temporary, threads=1)
        rows = compare(lambda inputs: detector(inputs).score, parity)
        require(rows, what=str(path), oracle=parity.oracle)
    return rows


def verify(path: str | Path, *, providers: Sequence[str] = ("CPUExecutionProvider",)) -> list[dict[str, Any]]:
    """Score the inputs stored in a detector again and compare with the oracle's scores stored beside them.

    Returns:
        A row per batch size: `batch`, `inputs`, `error`, `tolerance`, `agrees`.
    """
    detector = ExportedDetector(path, providers=providers, micro_batch=64)
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
    if inputs.dtype == np.uint8:
        made = random.integers(0, 256, (count - len(given), *inputs.shape[1:])).astype(np.uint8)
    else:
        made = (given.mean(0) + given.std(0) * random.standard_normal((count - len(given), *inputs.shape[1:]))).astype(
            np.float32
        )
    return np.concatenate([given, made])
