"""NCI: nearness to the weight vector of the predicted class, as neural collapse would have it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.checks import within
from sparsense.heads.gaussian import moments
from sparsense.heads.head import Array, register
from sparsense.heads.loss import predicted_class
from sparsense.heads.neighbours import unit
from sparsense.heads.shaping import FeatureHead


@register
class NeuralCollapse(FeatureHead):
    """Alignment of the centred penultimate features with the weights of the predicted class, and their size.

    score = - w_yhat . (h - mu) / ||h - mu|| - alpha ||h||_1,  mu = mean features

    Args:
        alpha: Weight of the features' size, in [0, 1e6].

    Reference:
        Liu and Qin, "Detecting out-of-distribution through the lens of neural collapse", CVPR 2025, arXiv:2311.01479.
    """

    name = "nci"

    def __init__(self, *, alpha: float = 1e-3) -> None:
        self.alpha = within("alpha", alpha, 0, 1e6)

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Learn the mean features."""
        self.mean_ = moments(observations)[0]
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Alignment and size."""
        chosen = op.MatMul(
            predicted_class(op, self.layer.logits(op, observed)), np.ascontiguousarray(self.layer.weight.T)
        )
        direction = unit(op, op.Sub(observed, self.learnt("mean").astype(np.float32)))
        alignment = op.ReduceSum(op.Mul(chosen, direction), [1], keepdims=0)
        size = op.Mul(op.ReduceSum(op.Abs(observed), [1], keepdims=0), self.alpha)
        return op.Neg(op.Add(alignment, size))
