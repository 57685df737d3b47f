"""Free energy of the logits."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import positive
from sparsense.heads.head import Head, register
from sparsense.heads.logits import free_energy


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
    needs_logits = True
    learns = False

    def __init__(self, *, temperature: float = 1.0) -> None:
        self.temperature = positive("temperature", temperature)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The logits."""
        return network.output

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Their free energy."""
        return free_energy(op, observed, self.temperature)
