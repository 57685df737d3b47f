"""Close a graph: threshold, p-value and decision for an asked false-alarm rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff.shapes import dims
from sparsense.calibrate import Calibration, calibrate
from sparsense.class_calibration import ClassCalibration, PerClass, calibrate_by_class, need_classes
from sparsense.detector.fit import HeldOut, Scored
from sparsense.detector.ranks import exceeding, exceeding_in_class, length
from sparsense.detector.switch import behind_switch
from sparsense.errors import CalibrationError
from sparsense.graph.build import Builder

Array = NDArray[Any]
SCORES, CLASSES = "sparsense.calibration_scores", "sparsense.calibration_classes"
"""Names of the initializers that hold what the threshold was made from."""


def calibrated(
    scored: Scored, held_out: HeldOut | Array, rate: float, *, per_class: PerClass = "no"
) -> tuple[ir.Model, Calibration]:
    """Close the graph: score, p-value, decision and the network's output, for an asked false-alarm rate.

    Args:
        scored: A network with a fitted head.
        held_out: Scores of held-out in-distribution inputs, `[n]`; with the classes predicted for them
            (`scored.judge(inputs)`) where thresholds are per class.
        rate: Asked false-alarm rate.
        per_class: `no`: one threshold. `strict`: one per predicted class. `pool`: the same, but classes with too few
            samples share the one of all.

    Returns:
        A model with inputs `input` and `threshold` (which has a default) and outputs `score`, `p_value`,
        `is_anomaly`, `output`; where the head was asked to explain itself, also an input `explain` (false by default)
        and the outputs `explanation` and `explanation_map`, which have rows only where it is true; and the calibration,
        a `ClassCalibration` where thresholds are per class.
    """
    held_out = held_out if isinstance(held_out, HeldOut) else HeldOut(np.asarray(held_out))
    need_classes(scored.network.task, per_class, doing=f"calibrating head {scored.head.name!r}")
    network = scored.network.copy()
    graph = network.model.graph
    values = {output.name: output for node in graph for output in node.outputs}
    found = calibration_of(held_out, rate, per_class=per_class, output=network.output, head=scored.head.name)
    score = values[scored.score.name]
    outputs = verdict(network.op, score, network.output, found, held_out)
    declare(network.op, outputs)
    if scored.explanations:
        asked = {name: values[value.name] for name, value in scored.explanations.items()}
        graph.outputs.extend(behind_switch(graph, asked, list(graph.outputs)).values())
    return network.model, found


def calibration_of(
    held_out: HeldOut, rate: float, *, per_class: PerClass, output: ir.Value, head: str
) -> Calibration | ClassCalibration:
    """The threshold or thresholds for an asked rate.

    Raises:
        CalibrationError: Scores that are not finite, too few of them, or no classes to tell apart.
    """
    scores = held_out.scores
    if not np.isfinite(scores).all():
        raise CalibrationError(
            f"calibrating head {head!r}: {(~np.isfinite(scores)).sum()} of {len(scores)} scores are NaN or "
            "infinite; check the calibration data"
        )
    if len(scores) > 1 and not np.ptp(scores):
        raise CalibrationError(
            f"calibrating head {head!r}: expected scores that differ, found {scores[0]:.6g} for all {len(scores)} "
            "inputs; no threshold can tell anything apart. If the inputs differ, this head does not suit this network: "
            "choose another"
        )
    if per_class == "no":
        return calibrate(scores, rate)
    count = dims(output)[1] if len(dims(output)) == 2 else None
    if held_out.classes is None and isinstance(count, int):
        raise CalibrationError(
            f"calibrating head {head!r} class by class: expected the class predicted for every calibration input, "
            "found scores alone; give inputs instead of what the file remembers"
        )
    if held_out.classes is None or not isinstance(count, int):
        raise CalibrationError(
            f"calibrating head {head!r} class by class: expected a classifier with a known number of classes and the "
            f"class predicted for every calibration input, found an output {dims(output)}; calibrate all together"
        )
    return calibrate_by_class(scores, held_out.classes, rate, classes=count, pool=per_class == "pool")


def verdict(
    op: Builder, score: ir.Value, output: ir.Value, found: Calibration, held_out: HeldOut
) -> dict[str, ir.Value]:
    """Add the nodes behind a score; the outputs by name, in order."""
    order = np.argsort(held_out.scores, kind="stable")
    table = op.constant(held_out.scores[order].astype(np.float32), SCORES)
    if isinstance(found, ClassCalibration) and held_out.classes is not None:
        predicted = op.ArgMax(output, axis=1, keepdims=0)
        threshold = op.Gather(_threshold(op.graph, found.thresholds), predicted, axis=0)
        classes = op.constant(held_out.classes[order].astype(np.int64), CLASSES)
        p = class_p_value(op, (score, predicted), (table, classes), np.array(found.pooled))
    else:
        threshold = _threshold(op.graph, np.asarray(found.threshold))
        p = p_value(op, score, table)
    return {
        "score": op.Identity(score),
        "p_value": p,
        "is_anomaly": op.Not(op.LessOrEqual(score, threshold)),  # so that a score that is not a number is one
        "output": op.Identity(output) if output.name != "output" else output,
    }


def declare(op: Builder, outputs: dict[str, ir.Value]) -> None:
    """Make values the graph's outputs, under their names."""
    batch = dims(op.graph.inputs[0])[0]
    for name, value in outputs.items():
        value.name = name
        value.shape = ir.Shape([batch, *list(value.shape or [batch])[1:]])
    op.graph.outputs[:] = list(outputs.values())


def _threshold(graph: ir.Graph, default: Array) -> ir.Value:
    """An initializer that is also an input: a caller may give another one. A scalar, or one per class [K]."""
    value = ir.Value(name="threshold", shape=ir.Shape(default.shape), type=ir.TensorType(ir.DataType.FLOAT))
    value.const_value = ir.tensor(default.astype(np.float32), name="threshold")
    graph.inputs.append(value)
    graph.register_initializer(value)
    return value


def p_value(op: Builder, score: ir.Value, calibration: ir.Value | Array) -> ir.Value:
    """(1 + #{calibration >= score}) / (n + 1) for scores [N], against calibration scores [n]."""
    return op.Mul(op.Add(exceeding(op, score, calibration), 1.0), 1 / (length(calibration) + 1))


def class_p_value(
    op: Builder, judged: tuple[ir.Value, ir.Value], calibration: tuple[ir.Value, ir.Value], pooled: NDArray[np.bool_]
) -> ir.Value:
    """The same among calibration inputs of the same predicted class, or among all for classes that are pooled.

    Args:
        op: Builder.
        judged: Scores [N] and predicted classes [N].
        calibration: Scores [n] and predicted classes [n].
        pooled: Which classes are judged by all, [K].
    """
    exceeded, peers = exceeding_in_class(op, judged, calibration, pooled)
    return op.Div(op.Add(exceeded, 1.0), op.Add(peers, 1.0))
