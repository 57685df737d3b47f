"""DICE: only the weights that usually matter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.checks import within
from sparsense.heads.gaussian import moments
from sparsense.heads.head import Array, register
from sparsense.heads.logits import free_energy
from sparsense.heads.shaping import FeatureHead


@register
class Dice(FeatureHead):
    """Energy with a last layer that keeps only its largest mean contributions.

    V     = W * mean(h),  W' = W where V is above its percentile, else 0
    score = -log sum_k exp (h W' + b)_k

    Args:
        percentile: Share of the weights that is dropped, in [0, 100] percent; 90 is published.

    Reference:
        Sun and Li, "DICE: leveraging sparsification for out-of-distribution detection", ECCV 2022, arXiv:2111.09805.
    """

    name = "dice"

    def __init__(self, *, percentile: float = 90.0) -> None:
        self.percentile = within("percentile", percentile, 0, 100)

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Learn the mean features."""
        self.mean_ = moments(observations)[0]
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Free energy of the sparse layer's logits."""
        weight = self.layer.weight
        contribution = weight * self.learnt("mean")[:, None]
        kept = np.where(contribution > np.percentile(contribution, self.percentile), weight, 0).astype(np.float32)
        return free_energy(op, op.Gemm(observed, kept, self.layer.bias))
