"""Heads that ask how far an observation is from what is usual, or usual for the predicted class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.shapes import dims
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import flag, within
from sparsense.heads.classes import ClassMoments, finite
from sparsense.heads.gaussian import whitening
from sparsense.heads.head import Array, Head
from sparsense.heads.loss import predicted_class


class GaussianHead(Head):
    """score = (v - mu)^T C^-1 (v - mu), mu of the predicted class or of all; a subclass says what v is.

    With `by_class` the covariance is that within classes. A class that was never predicted has the mean of all.
    """

    def __init__(self, *, shrinkage: float, by_class: bool) -> None:
        self.shrinkage, self.by_class = within("shrinkage", shrinkage, 0, 1), flag("by_class", by_class)
        self._classes = 0

    @abstractmethod
    def describe(self, network: ForwardGraph) -> ir.Value:
        """Add the nodes that give v, [N, D]."""

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The description, and behind it the predicted class as ones and zeros: [N, D + K]."""
        value = self.describe(network)
        if not self.by_class:
            return value
        self._classes = dims(network.output)[1]
        return network.op.Concat(value, predicted_class(network.op, network.output), axis=1)

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Learn what is usual and how it varies."""
        rows = [finite(batch) for batch in observations]
        width = rows[0].shape[1] - self._classes
        classes = [batch[:, width:].argmax(1) if self.by_class else np.zeros(len(batch), int) for batch in rows]
        found = ClassMoments.fit((batch[:, :width] for batch in rows), np.concatenate(classes))
        self.means_ = np.tile(found.mean, (max(self._classes, 1), 1))
        self.means_[found.classes] = found.means
        self.whitening_ = whitening(found.mean, found.within, shrinkage=self.shrinkage)
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Squared distance to the usual."""
        means, whiten = (self.learnt(name).astype(np.float32) for name in ("means", "whitening"))
        width = means.shape[1]
        if self.by_class:
            chosen = op.Slice(observed, [width], [width + len(means)], [1])
            centred = op.Sub(op.Slice(observed, [0], [width], [1]), op.MatMul(chosen, means))
        else:
            centred = op.Sub(observed, means)
        white = op.MatMul(centred, np.ascontiguousarray(whiten.T))
        return op.ReduceSum(op.Mul(white, white), [1], keepdims=0)
