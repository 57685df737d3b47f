"""Which epoch's weights are kept, and when there is no more hope of better ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sparsense.benchmark import metrics
from sparsense.errors import TrainingError
from sparsense.training.engine import device_of

Rule = Literal["last", "val_loss", "val_auroc"]
CHUNK = 256


@dataclass(frozen=True)
class HeldOut:
    """Samples that training does not see.

    Args:
        inputs: As the network sees them, `[N, ...]`, all in-distribution.
        labels: `[N]`, for objectives that look at them.
        anomalies: `[M, ...]`, for `val_auroc` alone.
    """

    inputs: Tensor
    labels: Tensor
    anomalies: Tensor | None = None


class Selection:
    """Keeps the best epoch, judged on held-out samples, and stops when `patience` epochs were no better.

    `val_loss`: smallest mean of the objective. `val_auroc`: largest area under the ROC curve of the objective's scores,
    held-out samples against known anomalies. **It uses labels**: results are then not those of training on normal
    samples alone.

    Args:
        rule: `val_loss` or `val_auroc`; `last` needs no selection.
        held_out: What is judged on.
        patience: Epochs without a better one before the end; None: all epochs.

    Raises:
        TrainingError: `val_auroc` without anomalies.
    """

    def __init__(self, rule: Rule, held_out: HeldOut, *, patience: int | None = None) -> None:
        if rule == "last" or not len(held_out.inputs):
            raise TrainingError(
                f"choosing an epoch by {rule!r}: expected val_loss or val_auroc and held-out samples, found "
                f"{len(held_out.inputs)}; set `validation`, the share of training samples that is held out"
            )
        if rule == "val_auroc" and held_out.anomalies is None:
            raise TrainingError(
                "choosing an epoch by 'val_auroc' needs known anomalies: name them in the recipe under "
                "data.validation_anomalies, apart from those that are measured on; or choose by val_loss"
            )
        self.rule, self.held_out, self.patience = rule, held_out, patience
        self.values: list[float] = []
        self.best: dict[str, Tensor] = {}

    @property
    def over(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and len(self.values) - 1 - self.best_epoch >= self.patience

    @property
    def best_epoch(self) -> int:
        """Counted from 0; the first of equal ones."""
        order = [-value if self.rule == "val_auroc" else value for value in self.values]
        return int(np.argmin([math.inf if math.isnan(value) else value for value in order])) if order else -1

    def check_found(self) -> None:
        """Refuse a choice among epochs none of which could be judged.

        Raises:
            TrainingError: No value is finite.
        """
        if not any(map(math.isfinite, self.values)):
            raise TrainingError(
                f"choosing an epoch by {self.rule!r}: expected a number after one of {len(self.values)} epochs at "
                f"least; found {self.values[-1]} after the last; look for held-out samples with values of another size "
                "than the others', or try a tenth of the learning rate"
            )

    def update(
        self, objective: Callable[..., Tensor], module: nn.Module, state: Callable[[], dict[str, Tensor]]
    ) -> None:
        """Judge the epoch that is over, and keep its state if it is the best so far."""
        judge = mean_loss if self.rule == "val_loss" else auroc
        self.values.append(judge(objective, module, self.held_out))
        if self.best_epoch == len(self.values) - 1:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in state().items()}


def mean_loss(objective: Callable[..., Tensor], module: nn.Module, held_out: HeldOut) -> float:
    """The mean of an objective over held-out samples; nothing keeps a gradient."""
    total, device = 0.0, device_of(module)
    for inputs, labels in zip(torch.split(held_out.inputs, CHUNK), torch.split(held_out.labels, CHUNK), strict=True):
        with torch.enable_grad():  # some objectives differentiate
            loss = objective(module, (inputs.to(device), labels.to(device)))
        total += float(loss.detach()) * len(inputs)
    return total / len(held_out.inputs)


def auroc(objective: Any, module: nn.Module, held_out: HeldOut) -> float:
    """The probability that an anomaly scores higher than a held-out sample; ties count half.

    Raises:
        TrainingError: The objective gives no scores.
    """
    if not hasattr(objective, "scores"):
        raise TrainingError(
            f"choosing an epoch by 'val_auroc': {type(objective).__name__} gives no anomaly scores; use val_loss"
        )
    assert held_out.anomalies is not None
    normal, anomalous = (
        torch.cat([_scores(objective, module, chunk) for chunk in torch.split(part, CHUNK)]).double().numpy()
        for part in (held_out.inputs, held_out.anomalies)
    )
    if np.isnan(normal).any() or np.isnan(anomalous).any():
        return math.nan  # never the best epoch
    return metrics.auroc(normal, anomalous)


@torch.no_grad()
def _scores(objective: Any, module: nn.Module, inputs: Tensor) -> Tensor:
    found: Tensor = objective.scores(module, inputs.to(device_of(module)))
    return found.cpu()


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors below a prefix; `below` takes it off."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
