"""Entropy of the predicted distribution."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import positive
from sparsense.heads.head import Head, register
from sparsense.heads.logits import competing


@register
class Entropy(Head):
    """Entropy of the softmax, in nats.

    score = -sum_k p_k log p_k,  p = softmax(f / T), in [0, log K]

    Args:
        temperature: T, positive.

    Reference:
        Shannon, "A mathematical theory of communication", 1948; as a detector in Hendrycks and Gimpel, ICLR 2017.
    """

    name = "entropy"
    needs_logits = True
    learns = False

    def __init__(self, *, temperature: float = 1.0) -> None:
        self.temperature = positive("temperature", temperature)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The logits."""
        return competing(network.output)

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """From the logarithms of the probabilities, which stay finite."""
        log_p = op.LogSoftmax(op.Mul(observed, 1 / self.temperature), axis=1)
        return op.Neg(op.ReduceSum(op.Mul(op.Exp(log_p), log_p), [1], keepdims=0))
