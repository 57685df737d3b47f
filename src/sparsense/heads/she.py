"""SHE: agreement with what a class usually looks like."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.classes import correct_means
from sparsense.heads.head import Array, register
from sparsense.heads.loss import predicted_class
from sparsense.heads.shaping import FeatureHead


@register
class HopfieldEnergy(FeatureHead):
    """Inner product of the penultimate features with the usual ones of the predicted class.

    score = -h . m_yhat,  m_c = mean features of the correctly classified inputs of class c

    Args: none.

    Reference:
        Zhang et al., "Out-of-distribution detection based on in-distribution data patterns memorization with modern
        Hopfield energy", ICLR 2023.
    """

    name = "she"
    needs_labels = True

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:
        """Learn the patterns."""
        layer = self.layer
        self.patterns_ = correct_means(observations, labels, lambda rows: rows @ layer.weight + layer.bias, self.name)
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The pattern of the predicted class against the features."""
        chosen = predicted_class(op, self.layer.logits(op, observed))
        pattern = op.MatMul(chosen, self.learnt("patterns").astype(np.float32))
        return op.Neg(op.ReduceSum(op.Mul(pattern, observed), [1], keepdims=0))
