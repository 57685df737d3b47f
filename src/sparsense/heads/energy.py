"""Free energy of the logits."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
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

    def __init__(self, *, temperature: float = 1.0) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        self.temperature = temperature

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The logits."""
        return network.output

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The largest logit is taken out of the sum first, so that nothing overflows."""
        logits = op.Mul(observed, 1 / self.temperature)
        largest = op.ReduceMax(logits, [1], keepdims=1)
        total = op.Log(op.ReduceSum(op.Exp(op.Sub(logits, largest)), [1], keepdims=1))
        return op.Mul(op.Squeeze(op.Add(total, largest), [1]), -self.temperature)
