"""Knowledge distillation: the dense network's answers as soft targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsense.training.objectives.confidence import ScoredByConfidence
from sparsense.training.objectives.objective import OBJECTIVES


@OBJECTIVES.register("distillation")
@dataclass(frozen=True)
class Distillation(ScoredByConfidence):
    """(1 - a) CE(f(x), y) + a T^2 KL(softmax(g(x) / T) || softmax(f(x) / T)), averaged over the batch.

    f is the network that is trained, g the dense one. T^2 keeps the size of the gradients of the soft part.

    Args:
        teacher: The dense network g; it is not changed.
        temperature: T > 0; higher shows more of how wrong classes compare.
        weight: a, 0 to 1.

    Reference:
        G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", 2015, arXiv:1503.02531.
    """

    needs: ClassVar[tuple[str, ...]] = ("teacher",)
    teacher: nn.Module
    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 <= self.weight <= 1:
            raise ValueError(
                "distillation needs temperature > 0 and weight between 0 and 1; "
                f"got {self.temperature} and {self.weight}"
            )

    def __call__(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch of inputs and labels."""
        inputs, labels = batch
        logits = module(inputs)
        with torch.no_grad():
            soft = functional.log_softmax(self.teacher.eval()(inputs) / self.temperature, 1)
        own = functional.log_softmax(logits / self.temperature, 1)
        divergence = functional.kl_div(own, soft, reduction="batchmean", log_target=True)
        hard = functional.cross_entropy(logits, labels)
        return (1 - self.weight) * hard + self.weight * self.temperature**2 * divergence
