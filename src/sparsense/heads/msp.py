"""Maximum softmax probability."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import positive
from sparsense.heads.head import Head, register
from sparsense.heads.loss import predicted_class


@register
class MaximumSoftmaxProbability(Head):
    """One minus the probability of the predicted class.

    score = 1 - max_k softmax(f / T)_k, in [0, 1)

    Args:
        temperature: T, positive; 1 is the published form.

    Reference:
        Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples in neural
        networks", ICLR 2017, arXiv:1610.02136.
    """

    name = "msp"
    learns = False

    def __init__(self, *, temperature: float = 1.0) -> None:
        self.temperature = positive("temperature", temperature)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The logits."""
        return network.output

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The probability of every other class together: exact where 1 - max would cancel."""
        logits = op.Mul(observed, 1 / self.temperature)
        odds = op.Exp(op.Sub(logits, op.ReduceMax(logits, [1], keepdims=1)))
        others = op.ReduceSum(op.Mul(odds, op.Sub(1.0, predicted_class(op, logits))), [1], keepdims=0)
        return op.Div(others, op.ReduceSum(odds, [1], keepdims=0))
