"""ODIN: how sure the network gets when the input is moved its way."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.autodiff import differentiate
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import positive, within
from sparsense.heads.head import Head, register
from sparsense.heads.logits import other_classes
from sparsense.heads.loss import predicted_class
from sparsense.heads.rerun import rerun


@register
class InputPerturbation(Head):
    """Softmax at a high temperature, after a small step of the input towards the predicted class.

    x'    = x + epsilon sign(d log softmax(f(x) / T)_yhat / dx)
    score = 1 - max_k softmax(f(x') / T)_k

    The network runs twice, and backwards once.

    Args:
        temperature: T, positive; 1000 is published.
        epsilon: Length of the step, in the unit of the network's own input, that is after division by its std; 0.0014
            is published for inputs in [0, 1], which is 0.006 behind a std of 0.23.

    Reference:
        Liang, Li, Srikant, "Enhancing the reliability of out-of-distribution image detection in neural networks", ICLR
        2018, arXiv:1706.02690.
    """

    name = "odin"
    needs_logits = True
    learns = False
    differentiates = True

    def __init__(self, *, temperature: float = 1000.0, epsilon: float = 0.006) -> None:
        self.temperature, self.epsilon = positive("temperature", temperature), within("epsilon", epsilon, 0, 1e3)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The logits at the moved input."""
        op = network.op
        p = op.Softmax(op.Mul(network.output, 1 / self.temperature), axis=1)
        seed = op.Sub(predicted_class(op, network.output), p)
        gradient = differentiate(op, of=network.output, wrt=[network.target], seed=seed)[network.target]
        moved = op.Add(network.target, op.Mul(op.Sign(gradient), self.epsilon))
        moved.shape = network.target.shape
        return rerun(network, network.target, moved)

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The probability of every other class together."""
        return other_classes(op, observed, self.temperature)
