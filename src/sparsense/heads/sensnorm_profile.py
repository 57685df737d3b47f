"""The sensitivity profile: which layers are how sensitive, compared with what is usual."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from sparsense.autodiff import weighted_layers
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.gaussian_head import GaussianHead
from sparsense.heads.head import register
from sparsense.heads.loss import elasticity_seed
from sparsense.heads.sensitivity import TINY, check_order, check_structure, layer_norms


@register
class SensitivityProfile(GaussianHead):
    """Mahalanobis distance of the vector of per-layer log norms of the elasticities.

    v(x)  = ( log || w_l * d log f_yhat / dw_l ||_p )  over layers l and orders p
    score = (v - mu)^T C^-1 (v - mu),  mu of the predicted class, C within classes, shrunk

    SensNorm keeps only the mean of this vector; its pattern over the layers carries far more.

    Args:
        p: Orders of the norms, each >= 1 or inf.
        structure: `weight`, or `channel` for the elasticities of output gates (cheaper).
        layers: Name patterns, operator types, or the number of last layers; default: all weighted layers.
        shrinkage: Share of the identity in the correlation matrix, in [0, 1]; None: whichever makes held-out fitting
            data likeliest.
        by_class: False compares with the mean of all classes. Held-out in-distribution profiles are likelier with True.
    """

    name = "sensnorm_profile"
    differentiates = True

    def __init__(
        self,
        *,
        p: float | Sequence[float] = (1.0, 2.0, 5.0),
        structure: str = "weight",
        layers: Sequence[str] | int | None = None,
        shrinkage: float | None = None,
        by_class: bool = True,
    ) -> None:
        super().__init__(shrinkage=shrinkage, by_class=by_class)
        self.p, self.structure, self.layers = check_orders(p), check_structure(structure), layers

    def describe(self, network: ForwardGraph) -> ir.Value:
        """Log norms, layer by layer: [N, L * number of orders]."""
        return log_norms(network, self.p, self.structure, self.layers)


def log_norms(
    network: ForwardGraph, orders: Sequence[float], structure: str, layers: Sequence[str] | int | None
) -> ir.Value:
    """Logarithms of the norms of every layer's elasticities, [N, L * number of orders]."""
    op, chosen = network.op, weighted_layers(network, layers=layers)
    found = layer_norms(network, chosen, elasticity_seed(network), orders, structure=structure)
    return op.Log(op.Max(found, TINY))


def check_orders(p: float | Sequence[float]) -> tuple[float, ...]:
    """One order or several, as a tuple."""
    orders = p if isinstance(p, Sequence) and not isinstance(p, str) else [p]
    if not orders:
        raise ValueError("p must hold at least one order of a norm; got none")
    return tuple(check_order(order) for order in orders)
