"""How sparsity grows: the sequence of targets, and the moment to prune early in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsense.errors import InputError
from sparsense.registry import Registry

Schedule = Callable[[float, int], list[float]]
"""(final sparsity, steps) -> the sparsity after each step; never falls, ends at the final one."""

SCHEDULES: Registry[Schedule] = Registry("schedule")


@SCHEDULES.register("one_shot")
def one_shot(sparsity: float, steps: int = 1) -> list[float]:
    """Everything at once, whatever the number of steps."""
    _check(sparsity, steps)
    return [sparsity]


@SCHEDULES.register("linear")
def linear(sparsity: float, steps: int) -> list[float]:
    """The same number of weights in every step: s_t = s t / n.

    Example:
        >>> linear(0.5, 2)
        [0.25, 0.5]
    """
    _check(sparsity, steps)
    return _ending(sparsity, [sparsity * t / steps for t in range(1, steps + 1)])


@SCHEDULES.register("exponential")
def exponential(sparsity: float, steps: int) -> list[float]:
    """The same share of what is left in every step: 1 - s_t = (1 - s)^(t / n), as synaptic flow wants it.

    Reference:
        Tanaka et al., NeurIPS 2020, arXiv:2006.05467.
    """
    _check(sparsity, steps)
    return _ending(sparsity, [1 - (1 - sparsity) ** (t / steps) for t in range(1, steps + 1)])


@SCHEDULES.register("cubic")
def cubic(sparsity: float, steps: int) -> list[float]:
    """Much at first, little at the end: s_t = s (1 - (1 - t / n)^3); for pruning while training.

    Reference:
        Zhu and Gupta, "To prune, or not to prune", 2017, arXiv:1710.01878.
    """
    _check(sparsity, steps)
    return _ending(sparsity, [sparsity * (1 - (1 - t / steps) ** 3) for t in range(1, steps + 1)])


@SCHEDULES.register("cosine")
def cosine(sparsity: float, steps: int) -> list[float]:
    """Little at both ends: s_t = s (1 - cos(pi t / n)) / 2."""
    _check(sparsity, steps)
    return _ending(sparsity, [sparsity * (1 - math.cos(math.pi * t / steps)) / 2 for t in range(1, steps + 1)])


@SCHEDULES.register("halving")
def halving(sparsity: float, steps: int) -> list[float]:
    """The distance to the target halves: s_i = s - (s - 0.5) 0.5^i for i = 0, 1, ..., then s, as CroP-it does.

    Published with 7 steps. A target of at most 0.5 is reached at once.

    Reference:
        Rachwan et al., ICML 2022, arXiv:2206.10451.
    """
    return _halving(sparsity, steps, 0.5)


@SCHEDULES.register("early_halving")
def early_halving(sparsity: float, steps: int) -> list[float]:
    """The same, beginning at 0.25 for targets of at most 0.5, as EarlyCroP does.

    Published with 100 steps for weights; for channels its code goes to the target at once, which 1 step does here. A
    target of at most 0.25 is reached at once.

    Example:
        >>> early_halving(0.5, 3), early_halving(0.9, 2)
        ([0.25, 0.375, 0.5], [0.5, 0.9])

    Reference:
        Rachwan et al., ICML 2022, arXiv:2206.10451.
    """
    return _halving(sparsity, steps, 0.5 if sparsity > 0.5 else 0.25)


@dataclass
class EarlyTrigger:
    """Finds the epoch at which a network in training may be pruned: its weights begin to move little.

    With w_1 the weights after the first epoch and d_t = |w_t - w_1| / |w_1|, prune at the first epoch with
    |d_t - d_(t-1)| < tau, where tau = d_2 (1 - s) (channels: d_2 min(0.9 - s, 0.99)) is set at the second. For
    channels and s >= 0.9 only the deadline can fire.

    Args:
        sparsity: That will be asked for.
        structure: `weight` or `channel`.
        deadline: Epoch (1 = the first) at which it fires at the latest; None for never.

    Reference:
        Rachwan et al., "Winning the lottery ahead of time: efficient early network pruning", ICML 2022,
        arXiv:2206.10451.
    """

    sparsity: float
    structure: str = "weight"
    deadline: int | None = None
    distances: list[float] = field(default_factory=list)
    start: Tensor | None = None
    epoch: int = 0

    def __post_init__(self) -> None:
        _check(self.sparsity, 1)
        if self.structure not in ("weight", "channel"):
            raise InputError(f"structure must be weight or channel; got {self.structure!r}")

    @property
    def tau(self) -> float | None:
        """The threshold; None before it is known."""
        if not self.distances:
            return None
        share = 1 - self.sparsity if self.structure == "weight" else min(0.9 - self.sparsity, 0.99)
        return self.distances[0] * share

    def update(self, module: nn.Module) -> bool:
        """Call after every epoch; true when it is time to prune."""
        self.epoch += 1
        now = torch.cat([parameter.detach().double().flatten().cpu() for parameter in module.parameters()])
        if self.start is None:
            self.start = now
            return self.epoch == self.deadline
        if len(now) != len(self.start):
            raise InputError("the early trigger watches one network; this one has other widths than after its first "
                             "epoch; start a new trigger")  # fmt: skip
        self.distances.append(float((now - self.start).norm() / self.start.norm()))
        if self.epoch == self.deadline:
            return True
        tau = self.tau
        return len(self.distances) > 1 and tau is not None and abs(self.distances[-1] - self.distances[-2]) < tau

    def state(self) -> dict[str, Any]:
        """What is needed to go on after an interruption."""
        return {"epoch": self.epoch, "distances": list(self.distances), "start": self.start}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.epoch, self.distances, self.start = state["epoch"], list(state["distances"]), state["start"]


def _check(sparsity: float, steps: int) -> None:
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity must lie in [0, 1); got {sparsity}")
    if steps < 1:
        raise InputError(f"a schedule needs at least 1 step; got {steps}")


def _halving(sparsity: float, steps: int, start: float) -> list[float]:
    _check(sparsity, steps)
    start = min(start, sparsity)
    return _ending(sparsity, [sparsity - (sparsity - start) * 0.5**i for i in range(steps)])


def _ending(sparsity: float, sequence: list[float]) -> list[float]:
    return [*sequence[:-1], sparsity]
