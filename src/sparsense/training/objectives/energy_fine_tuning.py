"""Energy fine-tuning: low energies for samples, high ones for outliers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsense.networks.network import Task
from sparsense.training.batches import Augmented
from sparsense.training.objectives.energies import Margins, energy
from sparsense.training.objectives.objective import OBJECTIVES


@OBJECTIVES.register("energy_fine_tuning")
class EnergyFineTuning:
    """CE(f(x), y) + w (mean max(0, S(x) - m_in)^2 + mean max(0, m_out - S(o))^2), S = -log sum exp f.

    As many outliers as samples are drawn for every batch; both pass through the network together.

    Args:
        outliers: Inputs `[M, ...]` as the network sees them; keep them apart from what is measured later.
        weight: w >= 0.
        margin_in: m_in; -25 for CIFAR, also -23 (CIFAR-10) and -27 (CIFAR-100) are published.
        margin_out: m_out; -7 or -5.

    Reference:
        W. Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020, arXiv:2010.03759.
    """

    needs: ClassVar[tuple[str, ...]] = ("outliers",)
    task: ClassVar[Task] = "classifier"

    def __init__(
        self, outliers: Tensor | Augmented, *, weight: float = 0.1, margin_in: float = -25.0, margin_out: float = -7.0
    ) -> None:
        if not weight >= 0:
            raise ValueError(f"energy_fine_tuning needs weight >= 0; got {weight}")
        self.outliers, self.weight, self.margins = outliers, weight, Margins(margin_in, margin_out)

    def __call__(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch of inputs and labels."""
        inputs, labels = batch
        drawn = self.outliers[torch.randint(len(self.outliers), (len(inputs),))].to(inputs)
        known, unknown = module(torch.cat([inputs, drawn])).split(len(inputs))
        return functional.cross_entropy(known, labels) + self.weight * self.margins.loss(energy(known), energy(unknown))

    def scores(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """The energy, [N]."""
        return energy(module(inputs))
