"""GradNorm in closed form."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.checks import positive
from sparsense.heads.direction import Turned
from sparsense.heads.head import register
from sparsense.heads.logits import competing
from sparsense.heads.shaping import FeatureHead


@register
class GradNorm(Turned, FeatureHead):
    """Size of the last layer's gradient when the network is asked to answer "any class alike".

    score = -|| dKL(uniform || softmax(f / T)) / dW ||_1 * T = -||h||_1 * sum_k |p_k - 1 / K|

    The gradient is an outer product, so its norm needs no backward pass. Known to do badly on small CIFAR networks.
    Where anomalies have the larger gradients, as can happen with vision transformers, it points the wrong way round.

    Args:
        temperature: T, positive; 1 is published.
        direction: `published`: small gradients are anomalous. `reversed`: large ones. `calibrated`: whichever way
            noise, which shows nothing, lies from the fitting data (by medians); the state has +1 for large or -1.
        seed: Of the noise.

    Reference:
        Huang, Geng, Li, "On the importance of gradients for detecting distributional shifts in the wild", NeurIPS 2021,
        arXiv:2110.00218.
    """

    name = "grad_norm"
    learns = False
    published = -1.0

    def __init__(self, *, temperature: float = 1.0, direction: str = "published", seed: int = 0) -> None:
        self.temperature = positive("temperature", temperature)
        self.turn(direction, seed)

    def size(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The product of both norms, [N]."""
        p = op.Softmax(op.Mul(competing(self.layer.logits(op, observed)), 1 / self.temperature), axis=1)
        away = op.ReduceSum(op.Abs(op.Sub(p, 1 / self.layer.weight.shape[1])), [1], keepdims=0)
        return op.Mul(away, op.ReduceSum(op.Abs(observed), [1], keepdims=0))
