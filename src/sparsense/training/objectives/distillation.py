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

    With `mix`, every input is m x + (1 - m) x', m ~ Beta(mix, mix), x' another input of the batch, for both networks:
    a network that knows its training samples by heart answers them with certainty, mixed ones as it would new ones.
    The hard part is then m CE(f, y) + (1 - m) CE(f, y').

    Args:
        teacher: The dense network g; it is not changed.
        temperature: T > 0; higher shows more of how wrong classes compare.
        weight: a, 0 to 1.
        mix: 0 for inputs as they are, 1 for all mixtures alike; smaller ones are nearer to one of the two inputs.

    Reference:
        G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network", 2015, arXiv:1503.02531;
        mixed inputs: L. Beyer et al., "Knowledge distillation: a good teacher is patient and consistent", CVPR 2022.
    """

    needs: ClassVar[tuple[str, ...]] = ("teacher",)
    teacher: nn.Module
    temperature: float = 4.0
    weight: float = 0.9
    mix: float = 0.0

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 <= self.weight <= 1 or not 0 <= self.mix < float("inf"):
            raise ValueError(
                "distillation needs temperature > 0, weight between 0 and 1 and mix >= 0; "
                f"got {self.temperature}, {self.weight} and {self.mix}"
            )

    def __call__(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch of inputs and labels."""
        inputs, labels = batch
        mixing = mixture(len(inputs), self.mix) if self.mix else None
        inputs = mixed(inputs, mixing)
        logits = module(inputs)
        with torch.no_grad():
            soft = functional.log_softmax(self.teacher.eval()(inputs) / self.temperature, 1)
        own = functional.log_softmax(logits / self.temperature, 1)
        divergence = functional.kl_div(own, soft, reduction="batchmean", log_target=True)
        certain = mixed(functional.one_hot(labels, logits.shape[1]).to(logits), mixing)
        hard = functional.cross_entropy(logits, certain)
        return (1 - self.weight) * hard + self.weight * self.temperature**2 * divergence


def mixture(samples: int, mix: float) -> tuple[Tensor, Tensor]:
    """Each sample's own part m in [0, 1], and the sample it is mixed with; by torch's own random numbers."""
    return torch.distributions.Beta(mix, mix).sample((samples,)), torch.randperm(samples)


def mixed(values: Tensor, mixing: tuple[Tensor, Tensor] | None) -> Tensor:
    """Of values `[N, ...]`: m x + (1 - m) x'; as they are without a mixture."""
    if mixing is None:
        return values
    parts, others = (part.to(values.device) for part in mixing)
    m = parts.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    return m * values + (1 - m) * values[others]
