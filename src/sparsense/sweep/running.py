"""The loop of a sweep: what is missing is run, what comes back is stored at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sparsense.sweep.engines import Engine, processes
from sparsense.sweep.halving import Halving, read_pulse
from sparsense.sweep.points import Point
from sparsense.sweep.recipe import SweepRecipe
from sparsense.sweep.store import Store
from sparsense.sweep.task import Outcome, Task

TICK = 0.5
"""Seconds between two looks at what running points report."""
Progress = Callable[[str, int, int], None]
"""`(what, done, of)`."""


@dataclass(frozen=True)
class Settings:
    """How a sweep runs; nothing of it changes a result but times, which other jobs disturb.

    Args:
        jobs: How many points at a time.
        engine: Where.
        data_root: Folder of the published sets.
        retry_failed: Whether points that failed run again.
    """

    jobs: int = 1
    engine: Engine = processes
    data_root: str | None = None
    retry_failed: bool = False


@dataclass(frozen=True)
class Tally:
    """What a sweep has come to."""

    done: int
    failed: int
    left: int
    stopped: int = 0


def run_sweep(
    sweep: SweepRecipe,
    points: Sequence[Point],
    store: Store,
    *,
    folder: Path,
    settings: Settings,
    progress: Progress = lambda *_: None,
) -> Tally:
    """Run every point that the store does not have yet; one that fails leaves its reason, and the sweep goes on.

    Args:
        sweep: The search.
        points: Its points.
        store: Gets a row when a point ends.
        folder: Every point has a folder in `folder/points`.
        settings: How to run.
        progress: Called with `(what, done, of)` when a point ends.
    """
    todo = missing(points, store, retry_failed=settings.retry_failed)
    store.append(
        "sweep", name=sweep.name, text=sweep.to_yaml(), points=[point.key for point in points], jobs=settings.jobs
    )
    if todo:
        halving = None if sweep.halving is None else Halving(sweep.halving, points, store)
        tasks = (_task(point, folder, settings, halving) for point in within_budget(todo, store, sweep.minutes))
        values = {point.key: point.values for point in points}
        done = len(points) - len(todo)
        progress("points", done, len(points))
        for outcome in outcomes(tasks, settings, halving):
            kind = "done" if outcome.done else "stopped" if outcome.stopped else "failed"
            told = {} if halving is None else {"reports": halving.reports(outcome.key)}
            store.append(kind, outcome.key, values=dict(values[outcome.key]), **told, **outcome.body)
            done += 1
            progress("points", done, len(points))
    return tally(points, store)


def missing(points: Sequence[Point], store: Store, *, retry_failed: bool = False) -> list[Point]:
    """Points that have not ended yet, in their order."""
    ended = {key for key, event in store.latest().items() if event.kind != "failed" or not retry_failed}
    return [point for point in points if point.key not in ended]


def tally(points: Sequence[Point], store: Store) -> Tally:
    """How many points are done, failed, and not yet begun."""
    latest = store.latest()
    kinds = [latest[point.key].kind if point.key in latest else "left" for point in points]
    return Tally(*(kinds.count(kind) for kind in ("done", "failed", "left", "stopped")))


def within_budget(points: Sequence[Point], store: Store, minutes: float | None) -> Iterator[Point]:
    """Points, as long as the store has fewer minutes of computing; asked anew before each."""
    for point in points:
        if minutes is not None and store.seconds() >= 60 * minutes:
            return
        yield point


def outcomes(tasks: Iterator[Task], settings: Settings, halving: Halving | None = None) -> Iterator[Outcome]:
    """Outcomes as they come; a task is taken only when there is room for it. Running ones are listened to."""
    with settings.engine(settings.jobs) as submit:
        running = {submit(task): task for task in islice(tasks, settings.jobs)}
        while running:
            ended, _ = wait(running, None if halving is None else TICK, FIRST_COMPLETED)
            if halving is not None:
                for task in running.values():
                    listen(task, halving)
            for future in ended:
                task = running.pop(future)
                yield future.result()
                task.pulse.unlink(missing_ok=True)
                task.stop.unlink(missing_ok=True)
                if (following := next(tasks, None)) is not None:
                    running[submit(following)] = following


def listen(task: Task, halving: Halving) -> None:
    """Hear what a run has reported, and tell it to end if others are better."""
    if halving.tell(task.key, read_pulse(task.pulse)):
        task.stop.touch()


def _task(point: Point, folder: Path, settings: Settings, halving: Halving | None) -> Task:
    place = (folder / "points" / point.recipe.name).absolute()
    return Task(point.key, point.recipe.to_yaml(), place, settings.data_root, watched=halving is not None)
