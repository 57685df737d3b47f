"""Mahalanobis distance to the nearest class."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.shapes import dims
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import within
from sparsense.heads.classes import ClassMoments
from sparsense.heads.contributions import Contributions
from sparsense.heads.gaussian import whitening
from sparsense.heads.head import Array, Head, register


@register
class Mahalanobis(Head):
    """Squared Mahalanobis distance of the penultimate features to the nearest class mean.

    score = min_c (h - mu_c)^T C^-1 (h - mu_c),  C the covariance within classes, the same for all of them

    Args:
        shrinkage: Share of the identity in the correlation matrix, in [0, 1]; 0 is the published form.

    Reference:
        Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial attacks",
        NeurIPS 2018, arXiv:1807.03888; without its input perturbation and its other layers.
    """

    name = "mahalanobis"
    needs_labels = True

    def __init__(self, *, shrinkage: float = 1e-3) -> None:
        self.shrinkage = within("shrinkage", shrinkage, 0, 1)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The penultimate features."""
        return network.features

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:
        """Learn class means and the covariance within classes."""
        found = ClassMoments.fit(observations, labels)
        self.origin_ = found.mean
        self.whitening_ = whitening(found.mean, found.within, shrinkage=self.shrinkage, total=found.total)
        self.means_ = found.means
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The smallest of the squared distances, all taken in whitened coordinates about the mean of all classes."""
        return nearest(op, observed, self.learnt("origin"), self.learnt("whitening"), self.learnt("means"))

    def explain(self, network: ForwardGraph, observed: ir.Value) -> Contributions:
        """What every penultimate feature adds to the distance."""
        learnt = (self.learnt("origin"), self.learnt("whitening"), self.learnt("means"))
        value = feature_parts(network.op, observed, *learnt)
        return Contributions("features", [f"feature {i}" for i in range(dims(observed)[1])], value)


def feature_parts(op: Builder, observed: ir.Value, origin: Array, whiten: Array, means: Array) -> ir.Value:
    """What every feature adds to min_c ||W (x - mu_c)||^2, [N, D]: (x - mu_c)_i (C^-1 (x - mu_c))_i."""
    centres = ((means - origin) @ whiten.T).astype(np.float32)
    white = op.MatMul(op.Sub(observed, origin.astype(np.float32)), whiten.T.astype(np.float32))
    cross = op.Add(op.MatMul(white, -2 * centres.T), np.square(centres).sum(1))
    closest = op.ArgMin(cross, axis=1, keepdims=0)
    white = op.Sub(white, op.Gather(centres, closest, axis=0))
    centred = op.Sub(observed, op.Gather(means.astype(np.float32), closest, axis=0))
    return op.Mul(centred, op.MatMul(white, whiten.astype(np.float32)))


def nearest(op: Builder, observed: ir.Value, origin: Array, whiten: Array, means: Array) -> ir.Value:
    """min_c ||W (x - mu_c)||^2 for x [N, D] and mu [K, D]: [N]."""
    white = op.MatMul(op.Sub(observed, origin.astype(np.float32)), whiten.T.astype(np.float32))
    centres = (means - origin) @ whiten.T
    # ||a - b||^2 = ||a||^2 - 2 a b + ||b||^2: one product for all classes
    cross = op.MatMul(white, (-2 * centres.T).astype(np.float32))
    closest = op.ReduceMin(op.Add(cross, np.square(centres).sum(1).astype(np.float32)), [1], keepdims=0)
    return op.Add(op.ReduceSumSquare(white, [1], keepdims=0), closest)
