"""Outlier exposure: right on samples, undecided on outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsense.training.batches import Augmented
from sparsense.training.objectives.confidence import ScoredByConfidence
from sparsense.training.objectives.energies import in_full
from sparsense.training.objectives.objective import OBJECTIVES


@OBJECTIVES.register("outlier_exposure")
@dataclass(frozen=True)
class OutlierExposure(ScoredByConfidence):
    """CE(f(x), y) + w mean over outliers of (log sum exp f(o) - mean f(o)): cross entropy to the uniform answer.

    As many outliers as samples are drawn for every batch; samples and outliers pass through the network together.

    Args:
        outliers: Inputs `[M, ...]` as the network sees them; keep them apart from what is measured later.
        weight: w >= 0.

    Reference:
        D. Hendrycks et al., "Deep anomaly detection with outlier exposure", ICLR 2019, arXiv:1812.04606.
    """

    needs: ClassVar[tuple[str, ...]] = ("outliers",)
    outliers: Tensor | Augmented
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"outlier_exposure needs weight >= 0; got {self.weight}")

    def __call__(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of one batch of inputs and labels."""
        inputs, labels = batch
        drawn = self.outliers[torch.randint(len(self.outliers), (len(inputs),))].to(inputs)
        logits = module(torch.cat([inputs, drawn]))
        known, unknown = logits.split(len(inputs))
        unknown = in_full(unknown)
        undecided: Tensor = (torch.logsumexp(unknown, 1) - unknown.mean(1)).mean()
        return functional.cross_entropy(known, labels) + self.weight * undecided
