"""ReAct: activations cut off where in-distribution ones end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.checks import within
from sparsense.heads.head import Array, register
from sparsense.heads.sample import sample
from sparsense.heads.shaping import ShapedEnergy

ROWS = 20_000  # more do not move a percentile


@register
class ReAct(ShapedEnergy):
    """Energy after clipping the penultimate features from above.

    score = -log sum_k exp (min(h, c) W + b)_k,  c = a percentile of all in-distribution features

    Args:
        percentile: In [0, 100]; 90 is published.

    Reference:
        Sun, Guo, Li, "ReAct: out-of-distribution detection with rectified activations", NeurIPS 2021, arXiv:2111.12797.
    """

    name = "react"

    def __init__(self, *, percentile: float = 90.0) -> None:
        self.percentile = within("percentile", percentile, 0, 100)

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Learn c."""
        self.ceiling_ = np.asarray(np.percentile(sample(observations, ROWS), self.percentile))
        return self

    def shape(self, op: Builder, features: ir.Value) -> ir.Value:
        """min(h, c)."""
        return op.Min(features, float(self.learnt("ceiling")))
