"""The sensitivity profile: which layers are how sensitive, compared with what is usual."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from sparsense.autodiff import weighted_layers
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.gaussian_head import GaussianHead
from sparsense.heads.head import register
from sparsense.heads.loss import elasticity_seed
from sparsense.heads.sensitivity import check_order, check_structure, concatenated, norms, sensitivities

TINY = 1e-30  # a layer that a dead input does not reach has norm 0; its logarithm must stay finite


@register
class SensitivityProfile(GaussianHead):
    """Mahalanobis distance of the vector of per-layer log norms of the elasticities.

    v(x)  = ( log || w_l * d log f_yhat / dw_l ||_p )  over layers l and orders p
    score = (v - mu)^T C^-1 (v - mu),  mu and C from in-distribution inputs, C shrunk

    SensNorm keeps only the mean of this vector; its pattern over the layers carries far more.

    Args:
        p: Orders of the norms, each >= 1 or inf.
        structure: `weight`, or `channel` for the elasticities of output gates (cheaper).
        layers: Name patterns, operator types, or the number of last layers; default: all weighted layers.
        shrinkage: Share of the identity in the correlation matrix, in [0, 1].
    """

    name = "sensnorm_profile"
    differentiates = True

    def __init__(
        self,
        *,
        p: float | Sequence[float] = (1.0, 2.0, 5.0),
        structure: str = "weight",
        layers: Sequence[str] | int | None = None,
        shrinkage: float = 1e-2,
    ) -> None:
        orders = p if isinstance(p, Sequence) else [p]
        self.p = tuple(check_order(order) for order in orders)
        self.structure, self.layers = check_structure(structure), layers
        super().__init__(shrinkage=shrinkage)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """Log norms, layer by layer: [N, L * number of orders]."""
        op, layers = network.op, weighted_layers(network, layers=self.layers)
        found = sensitivities(network, layers, elasticity_seed(network), structure=self.structure)
        columns = [norm for value in found for norm in norms(op, value, self.p)]
        return op.Log(op.Max(concatenated(op, columns), TINY))
