"""VRA: activations that are too weak or too strong are rectified, the others may be raised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.checks import within
from sparsense.heads.head import Array, register
from sparsense.heads.react import ROWS
from sparsense.heads.sample import sample
from sparsense.heads.shaping import ShapedEnergy


@register
class VariationalRectification(ShapedEnergy):
    """Energy after a rectification of the penultimate features from both sides.

    shape(h) = 0 where h < a, h + raised between, b where h > b;  a and b percentiles of in-distribution features
    score    = -log sum_k exp (shape(h) W + b)_k

    Args:
        low: Percentile below which features vanish, in [0, 100].
        high: Percentile above which they are cut off, in [low, 100].
        raised: What is added to the features between; 0 is the plain form.

    Reference:
        Xu et al., "VRA: variational rectified activation for out-of-distribution detection", NeurIPS 2023,
        arXiv:2302.11716.
    """

    name = "vra"

    def __init__(self, *, low: float = 60.0, high: float = 95.0, raised: float = 0.0) -> None:
        self.low, self.high = within("low", low, 0, 100), within("high", high, low, 100)
        self.raised = within("raised", raised, 0, 1e6)

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Learn a and b."""
        self.bounds_ = np.percentile(sample(observations, ROWS), [self.low, self.high])
        return self

    def shape(self, op: Builder, features: ir.Value) -> ir.Value:
        """Zero, raised, or cut off."""
        low, high = (float(bound) for bound in self.learnt("bounds"))
        middle = op.Add(features, self.raised) if self.raised else features
        cut = op.Where(op.Greater(features, high), high, middle)
        return op.Where(op.Less(features, low), 0.0, cut)
