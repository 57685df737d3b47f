"""How to train: optimizer, learning rate over the run, weight decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from sparsense.errors import TrainingError

_WARM_UP = 0.3  # share of a one-cycle run in which the learning rate rises


def constant(_: float) -> float:
    """The same learning rate throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """(1 + cos(pi t)) / 2: from 1 to 0.

    Reference:
        I. Loshchilov, F. Hutter, SGDR, ICLR 2017, arXiv:1608.03983.

    Example:
        >>> [round(cosine(t), 3) for t in (0, 0.5, 1)]
        [1.0, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * progress)) / 2


def one_cycle(progress: float) -> float:
    """From 1/25 up to 1 in the first 30 % of the run, then down to 0, along cosines.

    Reference:
        L. N. Smith, N. Topin, Super-Convergence, 2017, arXiv:1708.07120.

    Example:
        >>> [round(one_cycle(t), 3) for t in (0, 0.3, 1)]
        [0.04, 1.0, 0.0]
    """
    if progress < _WARM_UP:
        return 1 - 0.96 * cosine(progress / _WARM_UP)
    return cosine((progress - _WARM_UP) / (1 - _WARM_UP))


SCHEDULES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"constant": constant, "cosine": cosine, "one_cycle": one_cycle}
)
OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = MappingProxyType(
    {"sgd": partial(SGD, momentum=0.9, nesterov=True), "adam": Adam, "adamw": AdamW}
)


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    Args:
        epochs: Passes over the batches.
        learning_rate: The largest of the run.
        optimizer: `sgd` (Nesterov momentum 0.9), `adam` or `adamw`.
        schedule: The learning rate over the run: `constant`, `cosine` or `one_cycle`.
        weight_decay: For weights; biases and batch norms are left alone.
        seed: Of what the module or the objective draws, such as dropout. The batches have their own.
    """

    epochs: int = 5
    learning_rate: float = 0.01
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    schedule: Literal["constant", "cosine", "one_cycle"] = "cosine"
    weight_decay: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or not 0 < self.learning_rate < math.inf or not 0 <= self.weight_decay < math.inf:
            raise ValueError(
                "training needs epochs >= 1, learning_rate > 0 and weight_decay >= 0; "
                f"got {self.epochs}, {self.learning_rate} and {self.weight_decay}"
            )
        for kind, name, known in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if name not in known:
                raise ValueError(f"{kind} must be one of {', '.join(known)}; got {name!r}")

    def rates(self, steps: int) -> list[float]:
        """The learning rate of every step."""
        return [self.learning_rate * SCHEDULES[self.schedule](step / steps) for step in range(steps)]


def make_optimizer(module: nn.Module, settings: TrainingSettings) -> Optimizer:
    """An optimizer of all parameters that require a gradient; weight decay only for weights.

    Raises:
        TrainingError: No parameter requires a gradient.
    """
    trainable = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise TrainingError("training cannot start: every parameter is frozen; set requires_grad on some")
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in trainable if is_weight(name, p)], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in trainable if not is_weight(name, p)], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[settings.optimizer](groups, lr=settings.learning_rate)


def is_weight(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter multiplies: several axes, and no bias for every number of an image.

    Example:
        >>> is_weight("decoder.3.bias", nn.Conv2d(3, 8, 5).weight)
        False
    """
    return parameter.ndim > 1 and not name.endswith("bias")
