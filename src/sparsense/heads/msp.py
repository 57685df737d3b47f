"""Maximum softmax probability."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import positive
from sparsense.heads.head import Head, register
from sparsense.heads.logits import other_classes


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
    needs_logits = True
    learns = False

    def __init__(self, *, temperature: float = 1.0) -> None:
        self.temperature = positive("temperature", temperature)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The logits."""
        return network.output

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The probability of every other class together."""
        return other_classes(op, observed, self.temperature)
