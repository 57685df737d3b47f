"""ExGrad in closed form."""

from __future__ import annotations

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.direction import Turned
from sparsense.heads.head import register
from sparsense.heads.logits import other_classes
from sparsense.heads.loss import predicted_class
from sparsense.heads.shaping import FeatureHead


@register
class ExpectedGradient(Turned, FeatureHead):
    """Expected size of the last layer's gradient, were the label drawn from the network's own prediction.

    score = sum_k p_k || d(-log p_k) / dW ||_1 = 2 ||h||_1 sum_k p_k (1 - p_k)

    Args:
        direction: `published`: large gradients are anomalous. `reversed`: small ones. `calibrated`: whichever way
            noise, which shows nothing, lies from the fitting data (by medians); the state has +1 for large or -1.
        seed: Of the noise.

    Reference:
        Igoe et al., "How useful are gradients for OOD detection really?", 2022, arXiv:2205.10439.
    """

    name = "exgrad"
    learns = False
    published = 1.0

    def __init__(self, *, direction: str = "published", seed: int = 0) -> None:
        self.turn(direction, seed)

    def size(self, op: Builder, observed: ir.Value) -> ir.Value:
        """With 1 - p of the predicted class as the sum of the others, where the difference would cancel."""
        logits = self.layer.logits(op, observed)
        p, chosen = op.Softmax(logits, axis=1), predicted_class(op, logits)
        rest = op.Unsqueeze(other_classes(op, logits), [1])
        complement = op.Add(op.Mul(chosen, rest), op.Mul(op.Sub(1.0, chosen), op.Sub(1.0, p)))
        doubt = op.ReduceSum(op.Mul(p, complement), [1], keepdims=0)
        return op.Mul(op.Mul(doubt, op.ReduceSum(op.Abs(observed), [1], keepdims=0)), 2.0)
