"""Cross entropy of logits and labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from sparsense.training.objectives.confidence import ScoredByConfidence
from sparsense.training.objectives.objective import OBJECTIVES


@OBJECTIVES.register("cross_entropy")
@dataclass(frozen=True)
class CrossEntropy(ScoredByConfidence):
    """-sum_k q_k log softmax(logits)_k, averaged over the batch.

    q is 1 - s at the label and s / K everywhere on top of it.

    Args:
        label_smoothing: s, 0 to 1. Smoothing makes the largest logit less telling about anomalies.

    Example:
        >>> import torch
        >>> float(CrossEntropy()(nn.Identity(), (torch.zeros(3, 4), torch.tensor([0, 1, 2]))))  # log 4
        1.38629...
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be between 0 and 1; got {self.label_smoothing}")

    def __call__(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch of inputs and labels."""
        inputs, labels = batch
        return functional.cross_entropy(module(inputs), labels, label_smoothing=self.label_smoothing)
