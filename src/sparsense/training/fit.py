"""A training run to its end: kept after every epoch, logged, and with its last good weights when it diverges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from sparsense.errors import TrainingError
from sparsense.files import atomic_write
from sparsense.networks.tensors import with_remembered
from sparsense.training.checkpoint import load_training, read_notes, save_training
from sparsense.training.logs import Log
from sparsense.training.loop import Report, Training


@dataclass(frozen=True)
class Kept:
    """Where a run is kept.

    Args:
        checkpoint: Written after every epoch. Whoever has put the result in its place removes it; until then a kill
            costs nothing.
        identity: What makes the run, such as a hash of recipe and data; a file of another run is not gone on with.
        last_good: Gets the weights of the last good epoch when the run diverges.
    """

    checkpoint: Path
    identity: str
    last_good: Path

    @property
    def begun(self) -> bool:
        """Whether the checkpoint is there, and of this run."""
        return self.checkpoint.is_file() and read_notes(self.checkpoint).get("identity") == self.identity


def fit(
    training: Training[Any],
    kept: Kept,
    *,
    logs: Sequence[Log] = (),
    report: Report = lambda *_: None,
    after_step: Callable[[], object] = lambda: None,
) -> list[float]:
    """Train to the end; a run of the same identity that was killed goes on where it was, and ends bit for bit the same.

    Bit for bit holds on the same machine with the same number of threads, on the CPU.

    Args:
        training: Made anew, in the same way each time.
        kept: Where.
        logs: Told after every epoch.
        report: As for `train`.
        after_step: As for `train`.

    Returns:
        The mean loss of each epoch.

    Raises:
        TrainingError: It diverged; the message says where the weights of the last good epoch lie.
    """
    if kept.begun:
        load_training(training, kept.checkpoint)
        _tell(training, logs)  # the kill may have come before they were told
    while not training.done:
        try:
            training.epoch(after_step=after_step, report=report)
        except TrainingError as error:
            if training.engine.rank:
                raise
            raise _explained(error, training, kept) from error
        if training.engine.rank == 0:
            save_training(training, kept.checkpoint, identity=kept.identity)
        _tell(training, logs)
    training.module.to("cpu")
    return training.losses


def _tell(training: Training[Any], logs: Sequence[Log]) -> None:
    if training.engine.rank == 0:
        for log in logs:
            log(training)


def _explained(error: TrainingError, training: Training[Any], kept: Kept) -> TrainingError:
    """The same error, with the place of the last good weights, which are written now."""
    if not kept.begun:
        return with_place(error, "No epoch was finished before, so nothing is kept")
    which = back_to_last_good(training, kept.checkpoint)
    save_weights(training.module, kept.last_good, remembered(training))
    kept.checkpoint.unlink()
    return with_place(error, f"The weights of {which} are kept in {kept.last_good}")


def with_place(error: TrainingError, where: str) -> TrainingError:
    """The same error, which also says what is left."""
    told = str(error).removesuffix(".")
    return TrainingError(f"{told}. {where}.", step=error.step, learning_rate=error.learning_rate)


def back_to_last_good(training: Training[Any], checkpoint: Path) -> str:
    """Give a run that diverged the weights that it would have ended with before; says of which epoch they are.

    Args:
        training: Module and objective are changed.
        checkpoint: Of this very run, after its last good epoch.
    """
    load_training(training, checkpoint)
    if training.selection is None:
        return f"the last good epoch ({len(training.losses)})"
    training.load_state(training.selection.best)
    best, rule = training.selection.best_epoch + 1, training.selection.rule
    return f"the best good epoch ({best} of {len(training.losses)}, by {rule})"


def save_weights(module: nn.Module, path: Path, remembered: Mapping[str, Tensor] = MappingProxyType({})) -> None:
    """The tensors of a module and what training has kept besides, as `load_network(source, weights=...)` reads them."""
    tensors = with_remembered(module.state_dict(), remembered)
    with atomic_write(path) as temporary:
        save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, temporary)


def remembered(training: Training[Any]) -> dict[str, Tensor]:
    """What the objective of a finished run has kept for a detector."""
    found: Mapping[str, Tensor] = getattr(training.objective, "remembered", dict)()
    return {name: tensor.cpu() for name, tensor in found.items()}
