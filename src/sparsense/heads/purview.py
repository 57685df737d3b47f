"""Purview: how the network would have to change to answer "all classes at once"."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from sparsense.autodiff import weighted_layers
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.gaussian_head import GaussianHead
from sparsense.heads.head import register
from sparsense.heads.sensitivity import TINY, gradient_norms


@register
class Purview(GaussianHead):
    """Mahalanobis distance of the per-layer log gradient norms for a confounding label.

    L     = sum_k -log sigmoid(f_k),  the label says yes to every class
    v(x)  = ( log ||dL/dw_l||_2^2 )  over layers l
    score = (v - mu)^T C^-1 (v - mu)

    The publication trains a small network on v with anomalies at hand; here v is compared with in-distribution inputs
    alone. Gradients are those of the graph's weights, in which batch norms are folded: each differs by a factor.

    Args:
        layers: Name patterns, operator types, or the number of last layers; default: all weighted layers.
        shrinkage: Share of the identity in the correlation matrix, in [0, 1].

    Reference:
        Lee, Prabhushankar, AlRegib, "Probing the purview of neural networks via gradient analysis", IEEE Access 2023,
        arXiv:2304.02834.
    """

    name = "purview"
    needs_logits = True
    differentiates = True

    def __init__(self, *, layers: Sequence[str] | int | None = None, shrinkage: float = 1e-2) -> None:
        super().__init__(shrinkage=shrinkage, by_class=False)
        self.layers = layers

    def describe(self, network: ForwardGraph) -> ir.Value:
        """Log squared norms, [N, L]."""
        op, layers = network.op, weighted_layers(network, layers=self.layers)
        return op.Mul(op.Log(op.Max(gradient_norms(network, layers, self.seed(network)), TINY)), 2.0)

    def seed(self, network: ForwardGraph) -> ir.Value:
        """sigmoid(f) - 1, [N, K]; the runtime's Sigmoid keeps few digits."""
        op = network.op
        return op.Div(-1.0, op.Add(op.Exp(network.output), 1.0))
