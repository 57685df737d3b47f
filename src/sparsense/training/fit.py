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
        checkpoint: Written after every epoch; it goes when the run is done.
        identity: What makes the run, such as a hash of recipe and data; a file of another run is not gone on with.
        last_good: Gets the weights of the last good epoch when the run diverges.
    """

    checkpoint: Path
    identity: str
    last_good: Path


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
    checkpoint = kept.checkpoint
    if checkpoint.is_file() and read_notes(checkpoint).get("identity") == kept.identity:
        load_training(training, checkpoint)
    while not training.done:
        try:
            training.epoch(after_step=after_step, report=report)
        except TrainingError as error:
            if training.engine.rank:
                raise
            raise _explained(error, training, kept) from error
        if training.engine.rank == 0:
            save_training(training, checkpoint, identity=kept.identity)
            for log in logs:
                log(training)
    if training.engine.rank == 0:
        checkpoint.unlink(missing_ok=True)
    training.module.to("cpu")
    return training.losses


def _explained(error: TrainingError, training: Training[Any], kept: Kept) -> TrainingError:
    """The same error, with the place of the last good weights, which are written now."""
    if not kept.checkpoint.is_file():
        where = "No epoch was finished before, so nothing is kept"
    else:
        load_training(training, kept.checkpoint)
        save_weights(training.module, kept.last_good)
        where = f"The weights of the last good epoch ({len(training.losses)}) are kept in {kept.last_good}"
        kept.checkpoint.unlink()
    return TrainingError(f"{error} {where}.", step=error.step, learning_rate=error.learning_rate)


def save_weights(module: nn.Module, path: Path, remembered: Mapping[str, Tensor] = MappingProxyType({})) -> None:
    """The tensors of a module and what training has kept besides, as `load_network(source, weights=...)` reads them."""
    tensors = with_remembered(module.state_dict(), remembered)
    with atomic_write(path) as temporary:
        save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, temporary)


def remembered(training: Training[Any]) -> dict[str, Tensor]:
    """What the objective of a finished run has kept for a detector."""
    return dict(getattr(training.objective, "remembered", dict)())
