"""Right answers under noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsense.training.objectives.confidence import ScoredByConfidence
from sparsense.training.objectives.objective import OBJECTIVES


@OBJECTIVES.register("noise")
@dataclass(frozen=True)
class Noise(ScoredByConfidence):
    """CE(f(x + s n), y), n standard normal at a random share of the numbers of x and 0 elsewhere, drawn anew each time.

    Args:
        strength: s >= 0, in units of what the network sees.
        share: Of the numbers of an input that are disturbed, 0 to 1.
    """

    strength: float = 1.0
    share: float = 0.5

    def __post_init__(self) -> None:
        if not self.strength >= 0 or not 0 <= self.share <= 1:
            raise ValueError(
                f"noise needs strength >= 0 and share between 0 and 1; got {self.strength} and {self.share}"
            )

    def __call__(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch of inputs and labels."""
        inputs, labels = batch
        disturbed = torch.rand_like(inputs) < self.share
        noise = self.strength * torch.randn_like(inputs) * disturbed
        return functional.cross_entropy(module(inputs + noise), labels)
