"""Heads that shape the penultimate features before the last layer, and take the energy of what it answers."""

from __future__ import annotations

from abc import abstractmethod

import onnx_ir as ir

from sparsense.autodiff.shapes import dims
from sparsense.errors import NotFittedError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.features import LastLayer
from sparsense.heads.head import Head
from sparsense.heads.logits import free_energy


class FeatureHead(Head):
    """A head on the penultimate features that also needs the layer behind them."""

    _layer: LastLayer | None = None

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The penultimate features."""
        self._layer = LastLayer.of(network)
        return network.features

    @property
    def layer(self) -> LastLayer:
        """The last layer of the network that was observed."""
        if self._layer is None:
            raise NotFittedError(f"head {self.name!r} has not seen a network; call observe(network) first")
        return self._layer


class ShapedEnergy(FeatureHead):
    """score = -log sum_k exp (shape(h) W + b)_k; a subclass says what shape(h) is."""

    @abstractmethod
    def shape(self, op: Builder, features: ir.Value) -> ir.Value:
        """Add the nodes that turn features [N, F] into shaped ones."""

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Free energy of the shaped features' logits."""
        return free_energy(op, self.layer.logits(op, self.shape(op, observed)))


def largest(op: Builder, features: ir.Value, percentile: float) -> tuple[ir.Value, int]:
    """Per sample: the features above its own percentile, the others 0; and how many are kept at least.

    Args:
        op: Builder.
        features: [N, F], F known.
        percentile: Share in percent that is dropped; at least one feature is kept.
    """
    width = dims(features)[1]
    count = max(width - round(width * percentile / 100), 1)
    top, _ = op.call("TopK", features, [count], outputs=2, axis=1)
    least = op.Slice(top, [count - 1], [count], [1])
    return op.Mul(features, op.Cast(op.GreaterOrEqual(features, least), to=int(ir.DataType.FLOAT))), count
