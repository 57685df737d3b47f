"""The rows of a store as a report needs them: detectors with the values of their point, and failures."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from sparsense.sweep.candidates import Candidate
from sparsense.sweep.points import describe
from sparsense.sweep.store import Event, Store

NETWORK_HALF = ("prune", "batch_norm", "finetune", "precision")
"""Sections of a recipe that make the pruned network, or its numbers."""


class Entry(NamedTuple):
    """One detector of a sweep.

    Args:
        point: Short name of its point.
        values: What the sweep varied.
        folder: Of the run.
        candidate: Its numbers.
    """

    point: str
    values: dict[str, Any]
    folder: str
    candidate: Candidate

    @property
    def words(self) -> str:
        """What it is, in one line."""
        if self.candidate.variant == "dense":
            return f"dense, {self.candidate.head}"
        return f"{describe(self.values)}, {self.candidate.head}"

    @property
    def command(self) -> str:
        """What makes it again; the run's recipe lies beside its folder."""
        return f"sparsense run {shlex.quote(f'{self.folder}.yaml')}"


class Failure(NamedTuple):
    """A point without results."""

    values: dict[str, Any]
    reason: str


def place(entry: Entry) -> tuple[str, str]:
    """Folder and file: what a detector is known by among all of a sweep."""
    return entry.folder, entry.candidate.file


class Stopped(NamedTuple):
    """A point that others of its kind were better than.

    Args:
        values: What the sweep varied.
        epoch: Of fine-tuning, after which it ended.
        value: What it had reached: accuracy on training samples, or an error with a minus.
    """

    values: dict[str, Any]
    epoch: int
    value: float


def entries(store: Store) -> list[Entry]:
    """All detectors; a dense one that every point measures anew, with the same results, comes once."""
    found: dict[tuple[object, ...], Entry] = {}
    for entry in _timed_together(store, list(_all(store))):
        one = entry.candidate
        same = (one.head, one.bytes, one.accuracy, one.auroc) if one.variant == "dense" else (entry.folder, one.head)
        found.setdefault((one.variant, *same), entry)
    return list(found.values())


def failures(store: Store) -> list[Failure]:
    """Points whose last attempt failed."""
    return [Failure(e.body["values"], e.body["reason"]) for e in _current(store) if e.kind == "failed"]


def stopped(store: Store) -> list[Stopped]:
    """Points that were told to end early."""
    found = [event.body for event in _current(store) if event.kind == "stopped"]
    return [Stopped(body["values"], *body["reports"][-1]) for body in found]


def _timed_together(store: Store, found: list[Entry]) -> list[Entry]:
    """With the times of the last joint measurement where there are any; points that ended later have none."""
    number = max((i for i, event in enumerate(store.events) if event.kind == "measured"), default=None)
    if number is None:
        return found
    later = {event.body.get("folder") for event in store.events[number:] if event.kind == "done"}
    rows = {
        (row["folder"], row["file"]): row for row in store.events[number].body["rows"] if row["folder"] not in later
    }
    return [entry._replace(candidate=_with_time(entry.candidate, rows.get(place(entry)))) for entry in found]


def _with_time(one: Candidate, row: dict[str, Any] | None) -> Candidate:
    if row is None:
        return one
    low, high = row["time_interval"]
    return one.model_copy(
        update={
            "time": row["time"],
            "time_interval": (low, high),
            "milliseconds": row["milliseconds"],
            "together": True,
        }
    )


def _all(store: Store) -> Iterator[Entry]:
    for event in _current(store):
        if event.kind == "done":
            for row in event.body["candidates"]:
                one = Candidate.model_validate(row)
                yield Entry(event.point[:12], _values(event, one), event.body["folder"], one)


def _values(event: Event, candidate: Candidate) -> dict[str, Any]:
    """What the sweep varied, without what does nothing to a network that is not pruned."""
    values: dict[str, Any] = event.body["values"]
    if candidate.variant == "pruned" or candidate.precision != "float32":
        return values
    return {key: value for key, value in values.items() if key.split(".")[0] not in NETWORK_HALF}


def _current(store: Store) -> list[Event]:
    """The last event of every point that the sweep had when it was last begun, in its order."""
    begun = [event.body["points"] for event in store.events if event.kind == "sweep"]
    latest = store.latest()
    return [latest[point] for point in (begun[-1] if begun else ()) if point in latest]
