"""The signed gate sensitivities of all channels, compared with what is usual."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from sparsense.autodiff import Layer, weighted_layers
from sparsense.errors import InputError
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.contributions import Contributions, channel_names, channels_of
from sparsense.heads.gaussian_head import GaussianHead
from sparsense.heads.head import register
from sparsense.heads.loss import elasticity_seed
from sparsense.heads.sensitivity import concatenated, sensitivities

MAXIMUM = 4096  # channels: the covariance has as many rows and columns


@register
class SensitivityGates(GaussianHead):
    """Mahalanobis distance of the signed elasticities of every channel's gate.

    v(x)  = ( gamma_c * d log f_yhat / d gamma_c )  over the output channels c of all layers, at gamma = 1
    score = (v - mu)^T C^-1 (v - mu),  mu of the predicted class, C within classes, shrunk

    Where the sensitivity profile asks which layers are how sensitive, this asks which channels. There can be more
    channels than inputs to learn from: the shrinkage is what makes it work.

    Args:
        layers: Name patterns, operator types, or the number of last layers; default: all weighted layers.
        shrinkage: Share of the identity in the correlation matrix, in [0, 1].
        by_class: False compares with the mean of all classes.
    """

    name = "sensnorm_gates"
    differentiates = True

    def __init__(
        self, *, layers: Sequence[str] | int | None = None, shrinkage: float = 0.2, by_class: bool = True
    ) -> None:
        super().__init__(shrinkage=shrinkage, by_class=by_class)
        self.layers = layers

    def describe(self, network: ForwardGraph) -> ir.Value:
        """Gate elasticities, [N, channels]."""
        op, layers = network.op, weighted_layers(network, layers=self.layers)
        gates = sensitivities(network, layers, elasticity_seed(network), structure="channel")
        row = concatenated(op, gates)
        if row.shape is not None and isinstance(row.shape[1], int) and row.shape[1] > MAXIMUM:
            raise InputError(
                f"head {self.name!r} compares at most {MAXIMUM} channels, found {row.shape[1]}: restrict it with "
                "layers=..."
            )
        return row

    def divide(self, network: ForwardGraph, observed: ir.Value, into: str) -> Contributions | None:
        """By channels: what each gate adds to the distance."""
        if into != "channels":
            return super().divide(network, observed, into)
        names = channel_names(weighted_layers(network, layers=self.layers))
        return Contributions("channels", names, self.terms(network.op, observed))

    def columns(self, layers: Sequence[Layer]) -> list[int]:
        """As many as each layer has channels."""
        return channels_of(layers)
