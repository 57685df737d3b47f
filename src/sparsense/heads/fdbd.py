"""fDBD: distance to the decision boundaries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.checks import one_of
from sparsense.heads.gaussian import moments
from sparsense.heads.head import Array, register
from sparsense.heads.logits import competing
from sparsense.heads.loss import predicted_class
from sparsense.heads.neighbours import LEAST
from sparsense.heads.shaping import FeatureHead

CANCELS = 1e-6  # of the squares: what is left of their digits would not do for float32


@register
class DecisionBoundary(FeatureHead):
    """Mean distance of the features to the decision boundaries of the predicted class, for their deviation.

    score = - mean over c != yhat of (f_yhat - f_c) / ||w_yhat - w_c||, divided by ||h - mu||

    Args:
        regulariser: `deviation` divides by ||h - mu||, mu the mean features; `norm` by ||h||.

    Reference:
        Liu and Qin, "Fast decision boundary based out-of-distribution detector", ICML 2024, arXiv:2312.11536.
    """

    name = "fdbd"

    def __init__(self, *, regulariser: str = "deviation") -> None:
        self.regulariser = one_of("regulariser", regulariser, ("deviation", "norm"))

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Learn the mean features."""
        self.mean_ = moments(observations)[0]
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Distances to all boundaries at once: the row of the predicted class says what to divide by."""
        logits = competing(self.layer.logits(op, observed))
        inverse = op.MatMul(predicted_class(op, logits), _inverse_distances(self.layer.weight))
        margins = op.Sub(op.ReduceMax(logits, [1], keepdims=1), logits)
        distance = op.ReduceSum(op.Mul(margins, inverse), [1], keepdims=0)
        mean = self.learnt("mean") if self.regulariser == "deviation" else np.zeros(1)
        centred = op.Sub(observed, mean.astype(np.float32))
        deviation = op.Sqrt(op.ReduceSum(op.Mul(centred, centred), [1], keepdims=0))
        return op.Neg(op.Div(distance, op.Max(deviation, LEAST)))


def _inverse_distances(weight: Array) -> Array:
    """1 / ((K - 1) ||w_k - w_c||), [K, K]; 0 for a class and itself, or its twin."""
    columns = weight.T.astype(np.float64)
    distance = np.sqrt(_squared_distances(columns))
    inverse = np.divide(1, distance, out=np.zeros_like(distance), where=distance > 0)
    return np.asarray(inverse / max(len(columns) - 1, 1), np.float32)


def _squared_distances(rows: Array) -> Array:
    """Of all pairs, [K, K]: one product, and where it cancels the differences themselves."""
    squares = np.square(rows).sum(1)
    sums = squares[:, None] + squares
    found = sums - 2 * rows @ rows.T
    for index, near in enumerate(found < CANCELS * sums):
        found[index, near] = np.square(rows[near] - rows[index]).sum(1)
    return np.asarray(found)
