"""Functions of logits [N, K] as graph nodes, in forms that keep their digits in float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.shapes import dims
from sparsense.errors import GraphError
from sparsense.graph.build import Builder
from sparsense.heads.head import Array
from sparsense.heads.loss import predicted_class


def competing(logits: ir.Value) -> ir.Value:
    """The logits as they are; GraphError where one class alone has nothing to be compared with."""
    if dims(logits)[1] == 1:
        raise GraphError(
            "comparing the logits of classes: expected at least 2 classes, found 1; give the network two logits, 0 and "
            "f (their softmax is the sigmoid of f), name an output with the probabilities of both, or choose a head "
            "that needs no classes, such as sensnorm_profile, knn or residual"
        )
    return logits


def free_energy(op: Builder, logits: ir.Value, temperature: float = 1.0) -> ir.Value:
    """-T log sum_k exp(f_k / T), [N]; the largest logit is taken out of the sum first, so that nothing overflows."""
    scaled = _scaled(op, logits, temperature)
    largest = op.ReduceMax(scaled, [1], keepdims=1)
    total = op.Log(op.ReduceSum(op.Exp(op.Sub(scaled, largest)), [1], keepdims=1))
    return op.Mul(op.Squeeze(op.Add(total, largest), [1]), -temperature)


def other_classes(op: Builder, logits: ir.Value, temperature: float = 1.0) -> ir.Value:
    """1 - max_k softmax(f / T)_k as the sum over the other classes, [N]: exact where the difference would cancel."""
    scaled = _scaled(op, logits, temperature)
    odds = op.Exp(op.Sub(scaled, op.ReduceMax(scaled, [1], keepdims=1)))
    others = op.ReduceSum(op.Mul(odds, op.Sub(1.0, predicted_class(op, scaled))), [1], keepdims=0)
    return op.Div(others, op.ReduceSum(odds, [1], keepdims=0))


def log_odds_of_others(op: Builder, logits: ir.Value, temperature: float = 1.0) -> ir.Value:
    """log((1 - p) / p), p = max_k softmax(f / T)_k, [N]: keeps its digits where p is 1 in float32."""
    scaled = _scaled(op, logits, temperature)
    others = op.Sub(scaled, op.Mul(predicted_class(op, scaled), 1e30))
    return op.Neg(op.Add(free_energy(op, others), op.ReduceMax(scaled, [1], keepdims=0)))


def _scaled(op: Builder, logits: ir.Value, temperature: float) -> ir.Value:
    return competing(logits) if temperature == 1 else op.Mul(competing(logits), 1 / temperature)


def log_sum_exp(logits: Array) -> Array:
    """The numpy form, [N], in float64.

    Example:
        >>> log_sum_exp(np.array([[1000.0, 1000.0]])).round(4)
        array([1000.6931])
    """
    rows = np.asarray(logits, np.float64)
    largest = rows.max(1, keepdims=True)
    return np.asarray(np.log(np.exp(rows - largest).sum(1)) + largest[:, 0])


def softmax(logits: Array) -> Array:
    """The numpy form, [N, K], in float64."""
    return np.asarray(np.exp(np.asarray(logits, np.float64) - log_sum_exp(logits)[:, None]))
