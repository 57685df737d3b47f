"""Heads that ask how far an observation is from one Gaussian."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.checks import within
from sparsense.heads.gaussian import Gaussian
from sparsense.heads.head import Array, Head


class GaussianHead(Head):
    """score = (v - mu)^T C^-1 (v - mu); a subclass says what v is."""

    def __init__(self, *, shrinkage: float) -> None:
        self.shrinkage = within("shrinkage", shrinkage, 0, 1)

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Learn what is usual and how it varies."""
        gaussian = Gaussian.fit(observations, shrinkage=self.shrinkage)
        self.mean_, self.whitening_ = gaussian.mean, gaussian.whitening
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Squared distance to the usual."""
        return Gaussian(self.learnt("mean"), self.learnt("whitening")).distance(op, observed)
