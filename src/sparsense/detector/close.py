"""Close a graph: threshold, p-value and decision for an asked false-alarm rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.calibrate import Calibration, calibrate
from sparsense.detector.fit import Scored
from sparsense.errors import CalibrationError
from sparsense.graph.build import Builder

Array = NDArray[Any]


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
        "is_anomaly": op.Not(op.LessOrEqual(score, threshold)),  # so that a score that is not a number is one
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
