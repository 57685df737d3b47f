"""Scores of many files in a folder of parts: what is there already is not made again, and no part is half a file."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from sparsense.errors import InputError
from sparsense.files import atomic_write, held_alone
from sparsense.runtime import ExportedDetector
from sparsense.scoring.pieces import Piece
from sparsense.scoring.reading import read
from sparsense.scoring.rows import part_names, score_rows
from sparsense.scoring.writing import Format, flags, writer

JOB, DONE, LOCK = "job.json", "done.json", "job.lock"


@dataclass(frozen=True)
class Job:
    """What makes scores; plain values, so that it can be sent anywhere.

    Args:
        detector: The file.
        format: Of the parts.
        threshold: Replaces the calibrated one.
        explain: Say what each score is made of.
        threads: For ONNX Runtime.
    """

    detector: str
    format: str
    threshold: float | None = None
    explain: bool = False
    threads: int | None = None


class Tally(NamedTuple):
    """How many rows, and how many of them anomalous."""

    rows: int
    anomalies: int


class Task(NamedTuple):
    """A piece and the file of its scores."""

    piece: Piece
    file: Path


@contextmanager
def opened_folder(folder: Path, job: Job, pieces: Sequence[Piece]) -> Iterator[list[Task]]:
    """The tasks of a job, in order; the folder is ours alone until the end of the block.

    Args:
        folder: New, empty, or with parts of this very job.
        job: What makes the scores.
        pieces: Of what.

    Raises:
        InputError: The folder holds other things, or parts of another job, or another process writes to it.
    """
    facts = identity(job, pieces)
    _check_folder(folder, facts)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(held_alone(folder / LOCK))
        except (BlockingIOError, sqlite3.Error) as error:
            raise InputError(f"scoring into {folder}: {error}; wait for it, or choose another folder") from error
        for half in folder.glob(".part-*"):  # of a process that was killed
            half.unlink()
        with atomic_write(folder / JOB) as temporary:
            temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        yield [Task(piece, folder / f"part-{i:06}.{job.format}") for i, piece in enumerate(pieces)]


def identity(job: Job, pieces: Sequence[Piece]) -> dict[str, Any]:
    """What two jobs must share for the parts of one to be those of the other."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece.to_json().encode())
        for file in piece.files:
            found = Path(file).stat()
            digest.update(f"{found.st_size} {found.st_mtime_ns}".encode())
    detector = hashlib.sha256(Path(job.detector).read_bytes()).hexdigest()
    return {
        "detector": detector, "inputs": digest.hexdigest(), "parts": len(pieces), "format": job.format,
        "threshold": job.threshold, "explain": job.explain,
    }  # fmt: skip


def finish(folder: Path, total: Tally) -> None:
    """Say that all parts are there."""
    with atomic_write(folder / DONE) as temporary:
        temporary.write_text(json.dumps(total._asdict()) + "\n", encoding="utf-8")


def score_task(job: Job, task: Task) -> Tally:
    """Score a piece, unless its file is there already; the file appears when it is complete."""
    kind = Format(job.format)
    if task.file.is_file():
        found = list(flags(task.file, kind))
        return Tally(len(found), sum(found))
    detector = _loaded(job.detector, job.threads)
    names = part_names(detector) if job.explain else None
    rows = anomalies = 0
    batches = read(task.piece, detector, detector.micro_batch)
    with atomic_write(task.file) as temporary, writer(temporary, kind, names) as write:
        for row in score_rows(detector, batches, job.threshold, explain=job.explain):
            write(row)
            rows, anomalies = rows + 1, anomalies + row["is_anomaly"]
    return Tally(rows, anomalies)


@lru_cache(maxsize=1)
def _loaded(path: str, threads: int | None) -> ExportedDetector:
    """The detector, loaded once per process."""
    return ExportedDetector(path, threads=threads)


def _check_folder(folder: Path, facts: dict[str, Any]) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    file = folder / JOB
    if not file.is_file():
        raise InputError(f"scoring into {folder}: it holds other things (no {JOB}); choose another folder")
    found = json.loads(file.read_text(encoding="utf-8"))
    other = [name for name, value in facts.items() if found.get(name) != value]
    if other:
        raise InputError(
            f"scoring into {folder}: it holds scores of another job ({', '.join(other)} differ); remove it, or choose "
            "another folder"
        )
