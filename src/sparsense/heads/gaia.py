"""GAIA: gradients of inner channels that are abnormal, because dense or because large."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sparsense.autodiff import Layer, differentiate, weighted_layers
from sparsense.autodiff.shapes import dims, ones_like
from sparsense.errors import GraphError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.channel_maps import channel_means
from sparsense.heads.contributions import Contributions, channel_names, channels_of, names_of, per_group
from sparsense.heads.direction import Turned
from sparsense.heads.features import LastLayer
from sparsense.heads.head import register
from sparsense.heads.logits import competing
from sparsense.heads.loss import predicted_class
from sparsense.heads.sensitivity import concatenated

LEAST = 1e-12


class GradientAbnormality(Turned):
    """What both kinds share: one number per channel, the mean of their squares is the score."""

    learns = False
    differentiates = True
    published = 1.0

    def __init__(
        self, *, layers: Sequence[str] | int | None = None, direction: str = "published", seed: int = 0
    ) -> None:
        self.layers = layers
        self.turn(direction, seed)

    def size(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Mean square over the channels."""
        return op.ReduceMean(op.Mul(observed, observed), [1], keepdims=0)

    def explain(self, network: ForwardGraph, observed: ir.Value) -> Contributions:
        """What the channels of every layer add."""
        layers = self._inner(network)
        value = per_group(network.op, self._squares(network.op, observed), channels_of(layers))
        return Contributions("layers", names_of(layers), value)

    def divide(self, network: ForwardGraph, observed: ir.Value, into: str) -> Contributions | None:
        """By channels: their squares."""
        if into != "channels":
            return super().divide(network, observed, into)
        return Contributions("channels", channel_names(self._inner(network)), self._squares(network.op, observed))

    def _squares(self, op: Builder, observed: ir.Value) -> ir.Value:
        """What every channel adds to the mean, [N, channels]."""
        return op.Mul(op.Mul(observed, observed), self.sign / dims(observed)[1])

    def _inner(self, network: ForwardGraph) -> list[Layer]:
        """The chosen layers, without the one that makes the logits."""
        last = network.last_linear
        found = [layer for layer in weighted_layers(network, layers=self.layers) if layer.node is not last]
        if not found:
            raise GraphError(
                f"head {self.name!r} looks at gradients inside the network: expected a layer with constant weights "
                f"before the last one to match {self.layers!r}, found none; choose other layers, or a head that looks "
                "at logits"
            )
        return found


@register
class ZeroDeflation(GradientAbnormality):
    """How few entries of the inner gradients are zero.

    rho_c = share of non-zero entries of d max_k f_k / dz_c over the positions of channel c
    score = mean over channels of rho_c^2

    Channels are those of the outputs of weighted layers, where batch norms were folded in; ReLU must follow them.

    Args:
        layers: Name patterns, operator types, or the number of last layers; default: all weighted layers.
        direction: `published`: large values are anomalous. `reversed`: small ones. `calibrated`: whichever way
            noise, which shows nothing, lies from the fitting data (by medians); the state has +1 for large or -1.
        seed: Of the noise.

    Reference:
        Chen et al., "GAIA: delving into gradient-based attribution abnormality for out-of-distribution detection",
        NeurIPS 2023, arXiv:2311.09620; GAIA-Z.
    """

    name = "gaia_z"

    def observe(self, network: ForwardGraph) -> ir.Value:
        """Shares of non-zero entries, [N, channels]."""
        op, layers = network.op, self._inner(network)
        seed = predicted_class(op, network.output)
        deltas = differentiate(op, of=network.output, wrt=[layer.output for layer in layers], seed=seed)
        return concatenated(op, [channel_means(op, op.Abs(op.Sign(deltas[layer.output])), layer) for layer in layers])


@register
class AverageAbnormality(GradientAbnormality):
    """How large the mean inner gradients are, compared with the gradient of the output.

    a_c   = | mean over positions of d(sum h) / dz_c |
    o     = sqrt( mean over features of | d(sum_k log p_k) / dh | )
    score = mean over channels of (a_c / o)^2

    h are the penultimate features, where the publication has the feature map before its mean over positions, which
    differs by a constant.

    Args:
        layers: Name patterns, operator types, or the number of last layers; default: all weighted layers.
        direction: `published`: large values are anomalous. `reversed`: small ones. `calibrated`: whichever way
            noise, which shows nothing, lies from the fitting data (by medians); the state has +1 for large or -1.
        seed: Of the noise.

    Reference:
        Chen et al., "GAIA: delving into gradient-based attribution abnormality for out-of-distribution detection",
        NeurIPS 2023, arXiv:2311.09620; GAIA-A.
    """

    name = "gaia_a"

    def observe(self, network: ForwardGraph) -> ir.Value:
        """Ratios of gradients, [N, channels]."""
        op, layers, last = network.op, self._inner(network), LastLayer.of(network)
        seed = ones_like(op, network.features)
        deltas = differentiate(op, of=network.features, wrt=[layer.output for layer in layers], seed=seed)
        inner = concatenated(op, [op.Abs(channel_means(op, deltas[layer.output], layer)) for layer in layers])
        away = op.Sub(1.0, op.Mul(op.Softmax(competing(network.output), axis=1), float(last.weight.shape[1])))
        gradient = op.MatMul(away, np.ascontiguousarray(last.weight.T))
        outer = op.Sqrt(op.ReduceMean(op.Abs(gradient), [1], keepdims=1))
        return op.Div(inner, op.Max(outer, LEAST))
