"""Where pieces are scored: in this process, or by Ray Data. An engine is tasks -> tallies, in any order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sparsense.extras import need
from sparsense.scoring.folder import Job, Tally, Task, score_task
from sparsense.scoring.pieces import Piece

Engine = Callable[[Job, Sequence[Task], int], Iterator[Tally]]


def here(job: Job, tasks: Sequence[Task], _jobs: int) -> Iterator[Tally]:
    """One piece after the other; ONNX Runtime uses the cores."""
    yield from (score_task(job, task) for task in tasks)


def ray(job: Job, tasks: Sequence[Task], jobs: int) -> Iterator[Tally]:
    """By `jobs` workers of the cluster that RAY_ADDRESS names, or of one on this machine.

    Ray Data places the pieces and repeats those of a worker that dies; machines need the files and the folder of the
    parts in common.

    Raises:
        MissingExtraError: ray is not installed.
    """
    doing = "scoring with --engine ray"
    library: Any = need("ray", doing=doing, extra="ray")
    data: Any = need("ray.data", doing=doing, extra="ray")
    options = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": jobs, "include_dashboard": False}
    library.init(log_to_driver=False, **options)
    try:
        data.DataContext.get_current().enable_progress_bars = False
        rows = [{"piece": task.piece.to_json(), "file": str(task.file)} for task in tasks]
        found = data.from_items(rows, override_num_blocks=len(rows)).map(
            _Worker, fn_constructor_args=(job, str(Path.cwd())), concurrency=jobs
        )
        for row in found.iter_rows():
            yield Tally(row["rows"], row["anomalies"])
    finally:
        library.shutdown()


class _Worker:
    """Scores pieces in a process of Ray, with paths as the driver means them."""

    def __init__(self, job: Job, folder: str) -> None:
        os.chdir(folder)
        self.job = job

    def __call__(self, row: dict[str, str]) -> dict[str, int]:
        return score_task(self.job, Task(Piece.from_json(row["piece"]), Path(row["file"])))._asdict()


ENGINES: dict[str, Engine] = {"here": here, "ray": ray}
