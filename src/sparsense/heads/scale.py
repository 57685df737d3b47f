"""SCALE: all activations scaled by how much of them is in the largest."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.ash import TINY
from sparsense.heads.checks import within
from sparsense.heads.head import register
from sparsense.heads.shaping import ShapedEnergy, largest


@register
class Scale(ShapedEnergy):
    """Energy after scaling the penultimate features; nothing is set to zero.

    shape(h) = h exp(s1 / s2),  s1 = sum of h, s2 = sum of its largest features
    score    = -log sum_k exp (shape(h) W + b)_k

    For features that are not negative, as behind a ReLU.

    Args:
        percentile: Share of the features that does not count as largest, in [0, 100) percent; 85 is published.

    Reference:
        Xu et al., "Scaling for training time and post-hoc out-of-distribution detection enhancement", ICLR 2024,
        arXiv:2310.00227.
    """

    name = "scale"
    learns = False

    def __init__(self, *, percentile: float = 85.0) -> None:
        self.percentile = within("percentile", percentile, 0, 99.999)

    def shape(self, op: Builder, features: ir.Value) -> ir.Value:
        """H exp(s1 / s2)."""
        kept = op.ReduceSum(largest(op, features, self.percentile)[0], [1], keepdims=1)
        return op.Mul(features, op.Exp(op.Div(op.ReduceSum(features, [1], keepdims=1), op.Max(kept, TINY))))
