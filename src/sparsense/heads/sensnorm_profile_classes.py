"""The sensitivity profile, class by class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.classes import ClassMoments
from sparsense.heads.gaussian import whitening
from sparsense.heads.head import Array, register
from sparsense.heads.mahalanobis import nearest
from sparsense.heads.sensnorm_profile import SensitivityProfile


@register
class ClassProfile(SensitivityProfile):
    """Mahalanobis distance of the sensitivity profile to the nearest class mean.

    v(x)  = ( log || w_l * d log f_yhat / dw_l ||_p )  over layers l and orders p
    score = min_c (v - mu_c)^T C^-1 (v - mu_c),  C the shrunk covariance within classes

    Args:
        p: Orders of the norms, each >= 1 or inf.
        structure: `weight`, or `channel` for the elasticities of output gates (cheaper).
        layers: Name patterns, operator types, or the number of last layers; default: all weighted layers.
        shrinkage: Share of the identity in the correlation matrix, in [0, 1].
    """

    name = "sensnorm_profile_classes"
    needs_labels = True

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:
        """Learn each class's usual profile and how profiles vary within classes."""
        found = ClassMoments.fit(observations, labels)
        self.origin_, self.means_ = found.mean, found.means
        self.whitening_ = whitening(found.mean, found.within, shrinkage=self.shrinkage)
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The smallest of the squared distances."""
        return nearest(op, observed, self.learnt("origin"), self.learnt("whitening"), self.learnt("means"))
