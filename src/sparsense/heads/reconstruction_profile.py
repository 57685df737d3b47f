"""The sensitivity profile of an autoencoder: how sensitive its error is to which layers, and whether that is usual."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from sparsense.autodiff import Layer, weighted_layers
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.contributions import Contributions
from sparsense.heads.gaussian_head import GaussianHead
from sparsense.heads.head import register
from sparsense.heads.reconstruction_error import log_error_gradient, mean_error
from sparsense.heads.sensitivity import TINY, check_structure, divided_by_gates, layer_norms
from sparsense.heads.sensnorm_profile import check_orders


@register
class ReconstructionProfile(GaussianHead):
    """Mahalanobis distance of the reconstruction error and of how sensitive it is to every layer, all as logarithms.

    L     = mean (x - x')^2,  v(x) = ( log L, log || w_l * d log L / dw_l ||_p )  over layers l and orders p
    score = (v - mu)^T C^-1 (v - mu),  C shrunk

    The sensitivities are relative to the error, which stands beside them: those of the error itself are so small that
    their powers vanish in float32, and so do high orders. An input that is reconstructed unusually well is as
    suspicious as one that is reconstructed badly.

    Args:
        p: Orders of the norms, each >= 1 or inf.
        structure: `weight`, or `channel` for the sensitivities of output gates (cheaper).
        layers: Name patterns, operator types, or the number of last layers; default: all weighted layers.
        shrinkage: Share of the identity in the correlation matrix, in [0, 1].
    """

    name = "reconstruction_profile"
    task = "reconstruction"
    differentiates = True

    def __init__(
        self,
        *,
        p: float | Sequence[float] = (1.0, 2.0),
        structure: str = "weight",
        layers: Sequence[str] | int | None = None,
        shrinkage: float = 1e-2,
    ) -> None:
        super().__init__(shrinkage=shrinkage, by_class=False)
        self.p, self.structure, self.layers = check_orders(p), check_structure(structure), layers

    def describe(self, network: ForwardGraph) -> ir.Value:
        """The logarithms, the error's first: [N, 1 + L * number of orders]."""
        op, chosen = network.op, weighted_layers(network, layers=self.layers)
        norms = layer_norms(network, chosen, log_error_gradient(network), self.p, structure=self.structure)
        error = op.Unsqueeze(mean_error(network, squared=True), [1])
        return op.Log(op.Max(op.Concat(error, norms, axis=1), TINY))

    def explain(self, network: ForwardGraph, observed: ir.Value) -> Contributions:
        """What the error and every layer add to the distance; they share what they have in common."""
        found = super().explain(network, observed)
        return Contributions("terms", ["error", *found.names], found.value)

    def divide(self, network: ForwardGraph, observed: ir.Value, into: str) -> Contributions | None:
        """The error stays whole."""
        op, parts = network.op, self.explain(network, observed)
        if into != "channels":
            return Contributions(into, parts.names, parts.value)
        layers = weighted_layers(network, layers=self.layers)
        error, rest = op.call("Split", parts.value, [1, len(layers)], axis=1, outputs=2)
        found = divided_by_gates(network, layers, log_error_gradient(network), rest)
        return Contributions(into, ["error", *found.names], op.Concat(error, found.value, axis=1))

    def columns(self, layers: Sequence[Layer]) -> list[int]:
        """One number for the error, and one per order for every layer."""
        return [1, *[len(self.p)] * len(layers)]
