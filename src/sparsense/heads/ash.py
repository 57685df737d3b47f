"""ASH: most of an input's own activations removed, the rest simplified."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.checks import one_of, within
from sparsense.heads.head import register
from sparsense.heads.shaping import ShapedEnergy, largest

TINY = 1e-12  # features that are all zero stay zero


@register
class ActivationShaping(ShapedEnergy):
    """Energy after keeping only each input's largest penultimate features.

    p: kept features as they are
    b: each kept feature becomes s1 / number kept; zeros stay zeros
    s: kept features times exp(s1 / s2);  s1, s2 = their sums before and after
    score = -log sum_k exp (shape(h) W + b)_k

    For features that are not negative, as behind a ReLU.

    Args:
        kind: `p`, `b` or `s`.
        percentile: Share of the features that is removed, in [0, 100) percent; 65 to 95 is published.

    Reference:
        Djurisic et al., "Extremely simple activation shaping for out-of-distribution detection", ICLR 2023,
        arXiv:2209.09858.
    """

    name = "ash"
    learns = False

    def __init__(self, *, kind: str = "s", percentile: float = 90.0) -> None:
        self.kind, self.percentile = one_of("kind", kind, ("p", "b", "s")), within("percentile", percentile, 0, 99.999)

    def shape(self, op: Builder, features: ir.Value) -> ir.Value:
        """The chosen kind."""
        kept, count = largest(op, features, self.percentile)
        before = op.ReduceSum(features, [1], keepdims=1)
        if self.kind == "p":
            return kept
        if self.kind == "b":
            return op.Mul(op.Sign(kept), op.Mul(before, 1 / count))
        return op.Mul(kept, op.Exp(op.Div(before, op.Max(op.ReduceSum(kept, [1], keepdims=1), TINY))))
