"""The one training loop: an objective is made small over batches, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

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
    training = Training(module, objective, batches, settings)
    while not training.done:
        training.epoch(after_step=after_step, report=report)
    return training.losses


class Training(Generic[B]):
    """A training run that goes on epoch by epoch; `sparsense.training.checkpoint` keeps it between them.

    Args:
        module: Trained in place; in evaluation mode between the epochs.
        objective: `(module, batch) -> loss`.
        batches: Gone through once per epoch.
        settings: As for `train`.
    """

    def __init__(
        self, module: nn.Module, objective: Objective[B], batches: Epoch[B], settings: TrainingSettings
    ) -> None:
        self.module, self.objective, self.batches, self.settings = module, objective, batches, settings
        self.optimizer = make_optimizer(module, settings)
        self.rates = settings.rates(settings.epochs * len(batches))
        self.losses: list[float] = []
        with seeded(settings.seed):
            self.random_state = torch.get_rng_state()

    @property
    def done(self) -> bool:
        """Whether all epochs are over."""
        return len(self.losses) == self.settings.epochs

    def epoch(self, *, after_step: Callable[[], object] = lambda: None, report: Report = lambda *_: None) -> float:
        """One more epoch.

        Returns:
            Its mean loss.

        Raises:
            TrainingError: The loss or the weights are no longer finite.
        """
        first = len(self.losses) * len(self.batches)
        found: list[float] = []
        with _training_mode(self.module), self._random_numbers():
            rates = self.rates[first : first + len(self.batches)]
            for rate, batch in zip(rates, self.batches, strict=True):
                loss = self.objective(self.module, batch)
                found.append(_step(self.optimizer, rate, loss, step=first + len(found)))
                after_step()
                report("training", first + len(found), len(self.rates))
        _check_weights(self.module, self.settings.learning_rate)
        self.losses.append(sum(found) / len(found))
        return self.losses[-1]

    @contextmanager
    def _random_numbers(self) -> Iterator[None]:
        """Torch's own random numbers go on where the last epoch left them, and come back as they were."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.random_state)
            yield
            self.random_state = torch.get_rng_state()


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
