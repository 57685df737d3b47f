"""Finished pieces of a run, kept in a folder, so that a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from torch import nn

from sparsense import __version__
from sparsense.errors import SparsenseError
from sparsense.files import atomic_write, staged_folder
from sparsense.training.checkpoint import load_training, save_training
from sparsense.training.loop import Report, Training

KEY, DONE = "key", "done"


class Watch(Protocol):
    """What decides after every epoch whether a training run is over, and can be kept like it."""

    def update(self, module: nn.Module, /) -> bool: ...  # noqa: D102
    def state(self) -> dict[str, Any]: ...  # noqa: D102
    def load_state(self, state: dict[str, Any], /) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class State:
    """A folder of pieces, made when the first one is kept."""

    folder: Path
    key: str

    @property
    def begun(self) -> bool:
        """Whether an interrupted job has left something."""
        return self.folder.is_dir()

    def piece(self, name: str, write: Callable[[Path], object]) -> Path:
        """The folder of a piece: written now, whole or not at all, unless it was before.

        Whoever needs the piece reads it from there in both cases, so an interrupted run computes with the same
        numbers as one that was not.
        """
        piece = self.folder / name
        if not (piece / DONE).is_file():
            self.begin()
            with staged_folder(piece, mark=DONE) as staged:
                write(staged)
                (staged / DONE).touch()
        return piece

    def train(
        self,
        name: str,
        training: Training[object],
        *,
        after_step: Callable[[], object],
        report: Report,
        until: Watch | None = None,
    ) -> None:
        """Go through a training run, kept after every epoch, to its end or until something watched says stop."""
        self.begin()
        file, over = self.folder / f"{name}.safetensors", False
        if file.is_file():
            notes = load_training(training, file)
            over = notes.pop("over")
            if until is not None:
                until.load_state(notes)
        while not (over or training.done):
            training.epoch(after_step=after_step, report=report)
            over = until is not None and until.update(training.module)
            save_training(training, file, over=over, **({} if until is None else until.state()))

    def begin(self) -> Path:
        """The folder, made if it is not there."""
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            with atomic_write(self.folder / KEY) as temporary:
                temporary.write_text(self.key)
        return self.folder


@contextmanager
def kept_state(folder: Path, *identity: str) -> Iterator[State]:
    """The state of a job; removed when the job is done, or ended with an error that the message explains.

    Args:
        folder: Where it is kept. What another job has left there is removed.
        identity: What makes the job: its recipe, hashes of its data and networks. Versions and the number of
            threads are added, as they change the numbers.
    """
    key, found = job_key(*identity), folder / KEY
    if folder.is_dir() and (not found.is_file() or found.read_text() != key):
        shutil.rmtree(folder)
    try:
        yield State(folder, key)
    except SparsenseError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def job_key(*identity: str) -> str:
    """The hash of what makes a job, and of what else its numbers depend on."""
    facts = (*identity, __version__, torch.__version__, str(torch.get_num_threads()))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


@contextmanager
def passing_state() -> Iterator[State]:
    """A state that nothing outlives."""
    with TemporaryDirectory() as folder:
        yield State(Path(folder), "")


def state_folder(output: Path) -> Path:
    """Where a job with that output keeps its state: beside it."""
    return output.with_name(f".{output.name}.state")
