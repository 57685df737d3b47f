"""Mahalanobis distance to the nearest class, relative to the distance to everything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import onnx_ir as ir

from sparsense.errors import CalibrationError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.classes import ClassMoments
from sparsense.heads.contributions import Contributions
from sparsense.heads.gaussian import Gaussian, whitening
from sparsense.heads.head import Array, register
from sparsense.heads.mahalanobis import Mahalanobis, feature_parts, nearest


@register
class RelativeMahalanobis(Mahalanobis):
    """What the nearest class explains better than one Gaussian over all classes.

    score = min_c (h - mu_c)^T C^-1 (h - mu_c) - (h - mu)^T C0^-1 (h - mu),  mu and C0 of all classes together

    Args:
        shrinkage: Share of the identity in both correlation matrices, in [0, 1]; 0 is the published form.

    Reference:
        Ren et al., "A simple fix to Mahalanobis distance for improving near-OOD detection", 2021, arXiv:2106.09022.
    """

    name = "relative_mahalanobis"

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:
        """Learn class means and both covariances."""
        found = ClassMoments.fit(observations, labels)
        if len(found.classes) < 2:
            raise CalibrationError(
                f"fitting head {self.name!r}: expected labels of at least 2 classes, found only "
                f"{found.classes[0]}: the nearest class and all classes together are the same; choose mahalanobis"
            )
        self.origin_, self.means_ = found.mean, found.means
        self.whitening_ = whitening(found.mean, found.within, shrinkage=self.shrinkage, total=found.total)
        self.background_ = whitening(found.mean, found.total, shrinkage=self.shrinkage)
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The difference of the two squared distances."""
        close = nearest(op, observed, self.learnt("origin"), self.learnt("whitening"), self.learnt("means"))
        return op.Sub(close, Gaussian(self.learnt("origin"), self.learnt("background")).distance(op, observed))

    def explain(self, network: ForwardGraph, observed: ir.Value) -> Contributions:
        """What every feature adds to the one distance, less what it adds to the other."""
        close, op = super().explain(network, observed), network.op
        origin = self.learnt("origin")
        far = feature_parts(op, observed, origin, self.learnt("background"), origin[None])
        return Contributions(close.kind, close.names, op.Sub(close.value, far))
