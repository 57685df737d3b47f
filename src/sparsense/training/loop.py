"""The one training loop: an objective is made small over batches, for a number of epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsense.errors import TrainingError
from sparsense.training.objectives import Objective
from sparsense.training.settings import TrainingSettings, make_optimizer

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)
Report = Callable[[str, int, int], object]
"""`(what, done, of)`."""


class Epoch(Protocol[B_co]):
    """What is gone through once per epoch, and knows its number of batches."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[B_co]: ...


def train(
    module: nn.Module,
    objective: Objective[B],
    batches: Epoch[B],
    *,
    settings: TrainingSettings,
    after_step: Callable[[], object] = lambda: None,
    report: Report = lambda *_: None,
) -> list[float]:
    """Train a module in place; it is in evaluation mode afterwards.

    The same seeds give the same weights, on the same machine with the same number of threads.

    Args:
        module: Parameters that do not require a gradient stay as they are.
        objective: `(module, batch) -> loss`.
        batches: Gone through once per epoch.
        settings: Epochs, optimizer, learning rate and the like.
        after_step: Called after every step, to put a mask back or to keep an average.
        report: Told `("training", steps done, steps)` after every step; see `sparsense.cli.progress` for a bar.

    Returns:
        The mean loss of each epoch.

    Raises:
        TrainingError: The loss or the weights are no longer finite, or there is nothing to train.
    """
    optimizer = make_optimizer(module, settings)
    rates = settings.rates(settings.epochs * len(batches))
    losses: list[float] = []
    with _training_mode(module), seeded(settings.seed):
        for rate, batch in zip(rates, chain.from_iterable(repeat(batches, settings.epochs)), strict=True):
            losses.append(_step(optimizer, rate, objective(module, batch), step=len(losses)))
            after_step()
            report("training", len(losses), len(rates))
    _check_weights(module, settings.learning_rate)
    return [sum(losses[i : i + len(batches)]) / len(batches) for i in range(0, len(losses), len(batches))]


def _step(optimizer: Optimizer, rate: float, loss: Tensor, *, step: int) -> float:
    value = float(loss.detach())
    if not torch.isfinite(loss.detach()).all():
        raise TrainingError(
            f"training diverged: the loss is {value} at step {step}, with learning rate {rate:.3g}. "
            "Try a tenth of the learning rate, or schedule one_cycle, which warms up; "
            "and look for inputs that are not finite.",
            step=step,
            learning_rate=rate,
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value


def _check_weights(module: nn.Module, rate: float) -> None:
    broken = [name for name, tensor in module.state_dict().items() if not torch.isfinite(tensor).all()]
    if broken:
        raise TrainingError(
            f"training diverged: after the last step {broken[0]!r} is not finite, with learning rate {rate:.3g}. "
            "Try a tenth of the learning rate.",
            learning_rate=rate,
        )


@contextmanager
def _training_mode(module: nn.Module) -> Iterator[None]:
    module.train()
    try:
        yield
    finally:
        module.eval()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Fix torch's own random numbers inside, and give them back as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
