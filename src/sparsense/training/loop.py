"""The one training loop: an objective is made small over batches, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from sparsense.errors import TrainingError
from sparsense.training.engine import Alone, Engine
from sparsense.training.objectives import Objective
from sparsense.training.selection import Selection, below, prefixed
from sparsense.training.settings import TrainingSettings, make_optimizer

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)
Report = Callable[[str, int, int], object]
"""`(what, done, of)`."""
ALONE = "Expected more than 1 value per channel when training"  # as torch says it


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

    An objective may have `begin(epoch)`, told before every epoch how many are over, `after_backward(module)`, called
    while the gradients of a step lie in the parameters, and `state()` with `load_state(state)`, tensors that are kept
    with the weights. After the last epoch the module has the weights that the selection has chosen, and the objective
    the state that belongs to them.

    Args:
        module: Trained in place; in evaluation mode between the epochs.
        objective: `(module, batch) -> loss`.
        batches: Gone through once per epoch.
        settings: As for `train`.
        selection: Which epoch is kept; None: the last.
        engine: Where the steps are computed.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective[B],
        batches: Epoch[B],
        settings: TrainingSettings,
        *,
        selection: Selection | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.engine = engine or Alone()
        self.module = module if engine is None else module.to(engine.device)
        self.objective, self.batches, self.settings, self.selection = objective, batches, settings, selection
        if hasattr(objective, "average"):
            objective.average = self.engine.average
        self.optimizer = make_optimizer(module, settings)
        self.rates = settings.rates(settings.epochs * len(batches))
        self.losses: list[float] = []
        self._constant = _constants(module)
        with seeded(settings.seed):
            self.random_state = torch.get_rng_state()

    @property
    def done(self) -> bool:
        """Whether all epochs are over, or the selection has no more patience."""
        return len(self.losses) == self.settings.epochs or (self.selection is not None and self.selection.over)

    def epoch(self, *, after_step: Callable[[], object] = lambda: None, report: Report = lambda *_: None) -> float:
        """One more epoch.

        Returns:
            Its mean loss.

        Raises:
            TrainingError: The loss or the weights are no longer finite.
        """
        first = len(self.losses) * len(self.batches)
        found: list[float] = []
        if hasattr(self.objective, "begin"):
            self.objective.begin(len(self.losses))
        with _training_mode(self.module), self._random_numbers():
            rates = self.rates[first : first + len(self.batches)]
            for rate, batch in zip(rates, self.batches, strict=True):
                found.append(self._step(rate, batch, step=first + len(found)))
                after_step()
                report("training", first + len(found), len(self.rates))
        _check_weights(self.module, self._constant, self.settings.learning_rate)
        self._check_answers(batch)
        self.losses.append(sum(found) / len(found))
        self._select()
        return self.losses[-1]

    def state(self) -> dict[str, Tensor]:
        """What was learnt: the module's tensors below `module/`, the objective's below `objective/`."""
        remembered = self.objective.state() if hasattr(self.objective, "state") else {}
        return prefixed("module/", self.module.state_dict()) | prefixed("objective/", remembered)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.module.load_state_dict(below("module/", state))
        if hasattr(self.objective, "load_state"):
            own = below("objective/", state)
            self.objective.load_state({name: tensor.to(self.engine.device) for name, tensor in own.items()})

    def _step(self, rate: float, batch: B, *, step: int) -> float:
        with self.engine.autocast(), _located(rate, step):
            loss = self.objective(self.module, self.engine.share(batch))
        value = float(self.engine.average(loss.detach().float()))
        _check_loss(value, rate, step, self.settings.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        self.engine.backward(loss, self.module)
        if hasattr(self.objective, "after_backward"):
            self.objective.after_backward(self.module)
        self.optimizer.step()
        return value

    def _select(self) -> None:
        self.engine.align(self.module)
        if self.selection is None:
            return
        with seeded(self.settings.seed):
            self.selection.update(self.objective, self.module, self.state)
        if self.done:
            self.selection.check_found()
            self.load_state(self.selection.best)

    def _check_answers(self, batch: B) -> None:
        """Weights may be finite, but so large that the answers are not: no loss tells it after the last step."""
        if not isinstance(batch, tuple):
            return
        with torch.no_grad(), seeded(self.settings.seed):
            output = self.module(self.engine.share(batch)[0])
        if isinstance(output, Tensor) and float(self.engine.average((~torch.isfinite(output)).any().float())):
            raise TrainingError(
                "training diverged: after the last step the weights are finite, but the outputs of the network are "
                f"not, with learning rate {self.settings.learning_rate:.3g}. Try a tenth of the learning rate.",
                learning_rate=self.settings.learning_rate,
            )

    @contextmanager
    def _random_numbers(self) -> Iterator[None]:
        """Torch's own random numbers go on where the last epoch left them, and come back as they were."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.random_state)
            if self.engine.rank or self.engine.device.type != "cpu":  # draws of their own, the same after a kill
                torch.manual_seed(self.settings.seed + 1_000_003 * self.engine.rank + 7919 * len(self.losses))
            yield
            self.random_state = torch.get_rng_state()


def _check_loss(value: float, rate: float, step: int, schedule: str) -> None:
    if not math.isfinite(value):
        warmer = "" if schedule == "one_cycle" else ", or schedule one_cycle, which warms up"
        raise TrainingError(
            f"training diverged: the loss is {value} at step {step}, with learning rate {rate:.3g}. "
            f"Try a tenth of the learning rate{warmer}; and look for inputs that are not finite.",
            step=step,
            learning_rate=rate,
        )


@contextmanager
def _located(rate: float, step: int) -> Iterator[None]:
    """What an objective finds impossible, with step and learning rate, which it does not know."""
    try:
        yield
    except TrainingError as error:
        if error.step is not None:
            raise
        message = f"at step {step}, with learning rate {rate:.3g}: {error}"
        raise TrainingError(message, step=step, learning_rate=rate) from error
    except ValueError as error:
        if ALONE not in str(error):
            raise
        raise TrainingError(
            f"at step {step}: a batch of one sample has no variance, which batch norm divides by; expected at least "
            "two in every batch and process. Take a larger batch_size, or more samples.",
            step=step,
            learning_rate=rate,
        ) from error


def _constants(module: nn.Module) -> set[str]:
    """Buffers that hold infinity by design, such as the masks of attention."""
    return {name for name, buffer in module.named_buffers() if not torch.isfinite(buffer).all()}


def _check_weights(module: nn.Module, but: set[str], rate: float) -> None:
    watched = {name: tensor for name, tensor in module.state_dict().items() if name not in but}
    broken = [name for name, tensor in watched.items() if not torch.isfinite(tensor).all()]
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
