"""Free energy of the logits."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import positive
from sparsense.heads.head import Head, register


@register
class Energy(Head):
    """The free energy.

    score = -T log sum_k exp(f_k / T)

    Args:
        temperature: T, positive; 1 is the published default.

    Reference:
        Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020, arXiv:2010.03759.
    """

    name = "energy"
    learns = False

    def __init__(self, *, temperature: float = 1.0) -> None:
        self.temperature = positive("temperature", temperature)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The logits."""
        return network.output

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The largest logit is taken out of the sum first, so that nothing overflows."""
        logits = op.Mul(observed, 1 / self.temperature)
        largest = op.ReduceMax(logits, [1], keepdims=1)
        total = op.Log(op.ReduceSum(op.Exp(op.Sub(logits, largest)), [1], keepdims=1))
        return op.Mul(op.Squeeze(op.Add(total, largest), [1]), -self.temperature)
