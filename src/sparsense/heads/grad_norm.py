"""GradNorm in closed form."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.checks import positive
from sparsense.heads.head import register
from sparsense.heads.shaping import FeatureHead


@register
class GradNorm(FeatureHead):
    """Size of the last layer's gradient when the network is asked to answer "any class alike".

    score = -|| dKL(uniform || softmax(f / T)) / dW ||_1 * T = -||h||_1 * sum_k |p_k - 1 / K|

    The gradient is an outer product, so its norm needs no backward pass. Known to do badly on small CIFAR networks.

    Args:
        temperature: T, positive; 1 is published.

    Reference:
        Huang, Geng, Li, "On the importance of gradients for detecting distributional shifts in the wild", NeurIPS 2021,
        arXiv:2110.00218.
    """

    name = "grad_norm"
    learns = False

    def __init__(self, *, temperature: float = 1.0) -> None:
        self.temperature = positive("temperature", temperature)

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The product of both norms."""
        p = op.Softmax(op.Mul(self.layer.logits(op, observed), 1 / self.temperature), axis=1)
        away = op.ReduceSum(op.Abs(op.Sub(p, 1 / self.layer.weight.shape[1])), [1], keepdims=0)
        return op.Neg(op.Mul(away, op.ReduceSum(op.Abs(observed), [1], keepdims=0)))
