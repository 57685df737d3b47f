"""One point as a process of its own: a full `sparsense run`, whatever becomes of it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsense.benchmark.card import Card, load_card
from sparsense.errors import InputError
from sparsense.files import atomic_write, remove_given_up
from sparsense.sweep.candidates import candidates

REASON_CHARACTERS = 4000


@dataclass(frozen=True)
class Task:
    """What a process needs to run a point; plain values, so that it can be sent anywhere.

    Args:
        key: Of the point.
        recipe: Text of the whole recipe.
        folder: Where its results go; recipe and log lie beside it.
        data_root: Folder of the published sets.
        threads: Of the numerical libraries.
        watched: Whether the run reports after every epoch, and may be stopped.
    """

    key: str
    recipe: str
    folder: Path
    data_root: str | None = None
    threads: int = 1
    watched: bool = False

    @property
    def pulse(self) -> Path:
        """Where the run reports to; a file beside it with the suffix `.stop` stops it."""
        return self.folder.with_name(f"{self.folder.name}.pulse")

    @property
    def stop(self) -> Path:
        """The file that stops the run."""
        return self.pulse.with_suffix(".stop")


@dataclass(frozen=True)
class Outcome:
    """What became of a point: the body of its row in the store; `stopped` where it was told to end early."""

    key: str
    done: bool
    body: dict[str, Any]
    stopped: bool = False


def run_task(task: Task) -> Outcome:
    """Run a point, unless a card of this very recipe lies there already.

    The run is a process of its own, so a crash, or a kill for want of memory, costs one point and its memory goes back.

    Raises:
        InputError: The disk is full. That is no fault of the point, and would be that of all points that are left.
    """
    begun = time.monotonic()
    reason = "" if _card(task) is not None else _run(task)
    remove_given_up(task.folder)  # what a killed run had begun to write
    seconds = round(time.monotonic() - begun, 3)
    card = None if reason else _card(task)
    if card is None:
        _check_room(task, reason)
        reason = reason or f"the run ended without the card {task.folder / 'card.json'}"
        body = {"reason": reason, "seconds": seconds}
        stopped = task.watched and task.stop.exists()
        if stopped:
            _forget(task)
        return Outcome(task.key, done=False, body=body, stopped=stopped)
    return Outcome(task.key, done=True, body={"seconds": seconds, **facts(card, task.folder)})


def facts(card: Card, folder: Path) -> dict[str, Any]:
    """What the store keeps of a card."""
    return {
        "folder": str(folder),
        "card_sha256": hashlib.sha256((folder / "card.json").read_bytes()).hexdigest(),
        "version": card.versions.get("sparsense", ""),
        "machine": card.machine.cpu,
        "source": card.network.source,
        "test_n": next((row.count for row in card.data if row.role == "test"), 0),
        "candidates": [row.model_dump(mode="json") for row in candidates(card)],
    }


def _forget(task: Task) -> None:
    """Remove what a run keeps to be gone on with."""
    for kind in ("state", "training"):
        shutil.rmtree(task.folder.with_name(f".{task.folder.name}.{kind}"), ignore_errors=True)


def _card(task: Task) -> Card | None:
    """The card of a finished run of this recipe; results are renamed into place, so it is a whole one."""
    try:
        card = load_card(task.folder / "card.json")
    except InputError:
        return None
    return card if card.recipe.sha256 == hashlib.sha256(task.recipe.encode()).hexdigest() else None


def _run(task: Task) -> str:
    """Why the run failed; empty when it did not."""
    recipe = _written(task)
    command = [sys.executable, "-m", "sparsense.cli.worker", "run", str(recipe), "--output", str(task.folder), "-q"]
    if task.data_root is not None:
        command += ["--data-root", task.data_root]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_environment(task),
        text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stderr is not None
        message = process.stderr.read().strip()  # stdin stays open: its end tells the run that nobody waits for it
        code = process.wait()
    return "" if code == 0 else _reason(code, message)


def _written(task: Task) -> Path:
    """The recipe as a file beside the folder; a disk that is full ends the sweep, not every point that is left."""
    recipe = task.folder.with_name(f"{task.folder.name}.yaml")
    try:
        with atomic_write(recipe) as temporary:
            temporary.write_text(task.recipe, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"writing the recipe {recipe}: {error.strerror}. What was stored is kept; make room, or choose another "
            "--output, and start the sweep again: it goes on where it was"
        ) from error
    return recipe


def _check_room(task: Task, reason: str) -> None:
    """Raise if a run ended for want of room on the disk."""
    full = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT)]
    if found := next((words for words in full if words in reason), None):
        raise InputError(
            f"running the point {task.folder.name}: {found}. What was stored is kept; make room, or choose another "
            "--output, and start the sweep again: it goes on where it was"
        )


def _environment(task: Task) -> dict[str, str]:
    count = str(task.threads)
    ours = {"SPARSENSE_SHARED": str(task.folder.parent.parent / "shared")}
    ours |= {"SPARSENSE_PULSE": str(task.pulse)} if task.watched else {}
    return {**os.environ, **ours, "OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count, "MKL_NUM_THREADS": count}


def _reason(code: int, message: str) -> str:
    """The message of the run, or the signal that ended it.

    Example:
        >>> _reason(2, "error: no such data"), _reason(-9, "")
        ('no such data', 'ended by SIGKILL; a machine that runs out of memory does this')
    """
    if code < 0:
        name = signal.Signals(-code).name if -code in {int(s) for s in signal.Signals} else f"signal {-code}"
        hint = "; a machine that runs out of memory does this" if name == "SIGKILL" else ""
        return f"ended by {name}{hint}" + (f": {message[-REASON_CHARACTERS:]}" if message else "")
    return message.removeprefix("error: ")[-REASON_CHARACTERS:] or f"ended with exit code {code} and no message"
