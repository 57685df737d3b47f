"""Maximum logit."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.head import Head, register
from sparsense.heads.logits import competing


@register
class MaximumLogit(Head):
    """The negative largest logit.

    score = -max_k f_k

    Reference:
        Hendrycks et al., "Scaling out-of-distribution detection for real-world settings", ICML 2022, arXiv:1911.11132.
    """

    name = "max_logit"
    needs_logits = True
    learns = False

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The logits."""
        return competing(network.output)

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Its negative maximum."""
        return op.Neg(op.ReduceMax(observed, [1], keepdims=0))
