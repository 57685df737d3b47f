"""Heads that ask how far an observation is from what is usual, or usual for the predicted class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.autodiff import Layer, weighted_layers
from sparsense.autodiff.shapes import dims
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import flag, within
from sparsense.heads.classes import ClassMoments
from sparsense.heads.contributions import Contributions, names_of, per_group
from sparsense.heads.gaussian import whitening
from sparsense.heads.head import Array, Head
from sparsense.heads.loss import elasticity_seed, predicted_class
from sparsense.heads.sample import Sample
from sparsense.heads.sensitivity import divided_by_gates
from sparsense.heads.shrinkage import likeliest_shrinkage

ROWS = 4000  # more do not move the choice of the shrinkage
PER_CLASS = 5  # fitting inputs of a class, for it to have a mean of its own


class GaussianHead(Head):
    """score = (v - mu)^T C^-1 (v - mu), mu of the predicted class or of all; a subclass says what v is.

    With `by_class` the covariance is that within classes. Classes that were predicted for fewer than 5 fitting inputs
    share one mean, also with those that were never predicted; without any of the former, these have the mean of all.
    Without a given shrinkage it is the one under which held-out fitting data are likeliest.
    """

    layers: Sequence[str] | int | None = None

    def __init__(self, *, shrinkage: float | None, by_class: bool) -> None:
        self.shrinkage = None if shrinkage is None else within("shrinkage", shrinkage, 0, 1)
        self.by_class = flag("by_class", by_class)
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
        """Learn what is usual and how it varies, in one pass."""
        keeper = Sample(ROWS)
        batches = observations if self.shrinkage is not None else keeper.watch(observations)
        found = ClassMoments.of((self._parts(batch) for batch in batches), least=PER_CLASS)
        own = found.classes >= 0
        self.means_ = np.tile(found.mean if own.all() else found.means[0], (max(self._classes, 1), 1))
        self.means_[found.classes[own]] = found.means[own]
        chosen = self._likeliest(keeper.rows(), found.classes) if self.shrinkage is None else self.shrinkage
        self.whitening_ = whitening(found.mean, found.within, shrinkage=chosen, total=found.total)
        self.shrinkage_ = np.asarray(chosen)
        return self

    def _likeliest(self, rows: Array, known: Array) -> float:
        """Shrinkage chosen with classes that have no mean of their own taken for one."""
        values, classes = self._parts(rows)
        return likeliest_shrinkage(values, np.where(np.isin(classes, known), classes, self._classes))

    def _parts(self, batch: Array) -> tuple[Array, Array]:
        """V and the predicted class of a batch of observations."""
        width = batch.shape[1] - self._classes
        return batch[:, :width], batch[:, width:].argmax(1) if self.by_class else np.zeros(len(batch), np.int64)

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Squared distance to the usual."""
        _, white = self._distances(op, observed)
        return op.ReduceSum(op.Mul(white, white), [1], keepdims=0)

    def explain(self, network: ForwardGraph, observed: ir.Value) -> Contributions:
        """What every layer adds to the distance: sum over its numbers i of (v - mu)_i (C^-1 (v - mu))_i.

        Layers that vary together share what they add; one may take away what another one adds too much.
        """
        layers = weighted_layers(network, layers=self.layers)
        value = per_group(network.op, self.terms(network.op, observed), self.columns(layers))
        return Contributions("layers", names_of(layers), value)

    def divide(self, network: ForwardGraph, observed: ir.Value, into: str) -> Contributions | None:
        """By channels: the layers' parts again, each divided by the sensitivities of its channels' gates."""
        parts = self.explain(network, observed)
        if into != "channels":
            return parts
        layers = weighted_layers(network, layers=self.layers)
        return divided_by_gates(network, layers, self.seed(network), parts.value)

    def terms(self, op: Builder, observed: ir.Value) -> ir.Value:
        """What every number of v adds: (v - mu)_i (C^-1 (v - mu))_i, [N, D]."""
        centred, white = self._distances(op, observed)
        return op.Mul(centred, op.MatMul(white, self.learnt("whitening").astype(np.float32)))

    def seed(self, network: ForwardGraph) -> ir.Value:
        """Gradient by the logits of what v holds sensitivities of, [N, K]."""
        return elasticity_seed(network)

    def columns(self, layers: Sequence[Layer]) -> list[int]:
        """How many numbers of v belong to each layer; the default: the same for all."""
        return [self.learnt("means").shape[1] // len(layers)] * len(layers)

    def _distances(self, op: Builder, observed: ir.Value) -> tuple[ir.Value, ir.Value]:
        """V - mu, and the same whitened, [N, D]."""
        means, whiten = (self.learnt(name).astype(np.float32) for name in ("means", "whitening"))
        width = means.shape[1]
        if self.by_class:
            chosen = op.Slice(observed, [width], [width + len(means)], [1])
            centred = op.Sub(op.Slice(observed, [0], [width], [1]), op.MatMul(chosen, means))
        else:
            centred = op.Sub(observed, means)
        return centred, op.MatMul(centred, np.ascontiguousarray(whiten.T))
