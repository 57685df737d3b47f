"""Generalised entropy."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.autodiff.shapes import dims
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import at_least, within
from sparsense.heads.head import Head, register
from sparsense.heads.logits import other_classes
from sparsense.heads.loss import predicted_class


@register
class GeneralisedEntropy(Head):
    """Generalised entropy of the largest probabilities; small powers make it feel the tail of the softmax.

    score = sum over the M largest p_k of (p_k (1 - p_k))^gamma

    Args:
        gamma: Power, in (0, 1]; 0.1 is published.
        top: M, how many classes count; capped at their number.

    Reference:
        Liu, Lochman, Zach, "GEN: pushing the limits of softmax-based out-of-distribution detection", CVPR 2023.
    """

    name = "gen"
    needs_logits = True
    learns = False

    def __init__(self, *, gamma: float = 0.1, top: int = 100) -> None:
        self.gamma, self.top = within("gamma", gamma, 1e-6, 1), at_least("top", top, 1)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The logits."""
        return network.output

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """In logarithms: log p_k is exact, and 1 - p of the predicted class is the sum of the others."""
        log_p = op.LogSoftmax(observed, axis=1)
        chosen = predicted_class(op, observed)
        rest = op.Unsqueeze(other_classes(op, observed), [1])
        complement = op.Add(op.Mul(chosen, rest), op.Mul(op.Sub(1.0, chosen), op.Sub(1.0, op.Exp(log_p))))
        terms = op.Exp(op.Mul(op.Add(log_p, op.Log(op.Max(complement, 1e-37))), self.gamma))
        classes = dims(observed)[1]
        if isinstance(classes, int) and classes <= self.top:
            return op.ReduceSum(terms, [1], keepdims=0)
        _, best = op.call("TopK", log_p, [self.top], outputs=2, axis=1)
        return op.ReduceSum(op.GatherElements(terms, best, axis=1), [1], keepdims=0)
