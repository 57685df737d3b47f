"""Anomaly scores of a classifier that was trained on classes alone: how far its largest probability is from 1."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from sparsense.networks.network import Task


class ScoredByConfidence:
    """Objectives without a score of their own, such as cross entropy, choose an epoch (`val_auroc`) by this one."""

    task: ClassVar[Task] = "classifier"

    def scores(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """1 - max softmax, `[N]`, between 0 and 1; orders inputs as the head `msp` does."""
        found: Tensor = 1 - module(inputs).float().softmax(1).amax(1)
        return found
