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
from sparsense.errors import SparsenseError, TrainingError
from sparsense.files import atomic_write, staged_folder
from sparsense.training.checkpoint import load_training, save_training
from sparsense.training.loop import Report, Training

GOING_ON = "going on where an interrupted job was"
KEY, DONE, LEARNT = "key", "done", "learnt"
Diverged = Callable[[TrainingError, Path], TrainingError]


class Watch(Protocol):
    """What decides after every epoch whether a training run is over, and can be kept like it."""

    def update(self, module: nn.Module, /) -> bool: ...  # noqa: D102
    def state(self) -> dict[str, Any]: ...  # noqa: D102
    def load_state(self, state: dict[str, Any], /) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class State:
    """A folder of pieces, made when the first one is kept.

    Args:
        folder: Of the pieces.
        key: Of the job.
        output: Of the job; what outlives the state is written beside it. None: nothing does.
    """

    folder: Path
    key: str
    output: Path | None = None

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
        diverged: Diverged = lambda error, _: error,
    ) -> None:
        """Go through a training run, kept after every epoch, to its end or until something watched says stop.

        Args:
            name: Of the file that keeps it.
            training: Not begun, or where this process left it.
            after_step: Called after every step.
            report: Told about every step.
            until: Decides after every epoch whether it is over.
            diverged: Given the error of a run that diverged and the file of its last good epoch, if there is one;
                returns the error to raise.
        """
        self.begin()
        file, over = self.folder / f"{name}.safetensors", False
        if file.is_file():
            notes = load_training(training, file)
            over = notes.pop("over")
            if until is not None:
                until.load_state(notes)
        while not (over or training.done):
            try:
                training.epoch(after_step=after_step, report=report)
            except TrainingError as error:
                training.module.to("cpu")
                raise diverged(error, file) from error
            over = until is not None and until.update(training.module)
            save_training(training, file, over=over, **({} if until is None else until.state()))
        training.module.to("cpu")
        self.worth_keeping()

    def worth_keeping(self) -> None:
        """Something was trained to its end: the state outlives errors now, not only kills."""
        (self.begin() / LEARNT).touch()

    def begin(self) -> Path:
        """The folder, made if it is not there."""
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            with atomic_write(self.folder / KEY) as temporary:
                temporary.write_text(self.key)
        return self.folder


@contextmanager
def kept_state(folder: Path, *identity: str, output: Path | None = None, stays: str = "the job") -> Iterator[State]:
    """The state of a job; removed when the job is done, or ended with an error before anything was trained to its end.

    An error after a training leaves the state, and says so in a note: what is no part of the identity can be changed,
    and the next run goes on from there.

    Args:
        folder: Where it is kept. What another job has left there is removed.
        identity: What makes the job: what its pieces depend on of its recipe, hashes of its data and networks. Versions
            and the number of threads are added, as they change the numbers.
        output: See `State`.
        stays: What the identity is made of, in words.
    """
    key, found = job_key(*identity), folder / KEY
    if folder.is_dir() and (not found.is_file() or found.read_text() != key):
        shutil.rmtree(folder)
    try:
        yield State(folder, key, output)
    except SparsenseError as error:
        if not (folder / LEARNT).is_file():
            shutil.rmtree(folder, ignore_errors=True)
            raise
        error.add_note(
            f"What was trained is not lost: it is kept in {folder}, and the next run with this output goes on from "
            f"there, if these are as now: {stays}."
        )
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


def state_folder(output: Path, kind: str = "state") -> Path:
    """Where a job with that output keeps its state: beside it."""
    return output.with_name(f".{output.name}.{kind}")
