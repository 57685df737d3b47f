"""Where points run: processes of this machine, or a Ray cluster. An engine is a way to submit a task, nothing more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sparsense.errors import InputError
from sparsense.extras import need
from sparsense.sweep.task import Outcome, Task, run_task

RETRIES = 2
"""How often Ray starts a task anew whose worker was lost."""
Submit = Callable[[Task], "Future[Outcome]"]
Engine = Callable[[int], AbstractContextManager[Submit]]


@contextmanager
def processes(jobs: int) -> Iterator[Submit]:
    """At most `jobs` runs at a time on this machine; a thread waits for each."""
    with ThreadPoolExecutor(jobs) as pool:

        def submit(task: Task) -> Future[Outcome]:
            return pool.submit(run_task, task)

        yield submit


@contextmanager
def ray(jobs: int) -> Iterator[Submit]:
    """The cluster that RAY_ADDRESS names, or one on this machine with `jobs` workers.

    Ray places the tasks; results lie where the tasks write them, so machines need a folder in common. A task whose
    worker is lost starts anew elsewhere; one that loses `RETRIES` more is a failed point, and the sweep goes on.

    Raises:
        MissingExtraError: ray is not installed.
    """
    library = need("ray", doing="a sweep with --engine ray", extra="ray")
    options = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": jobs, "include_dashboard": False}
    library.init(log_to_driver=False, **options)
    try:
        remote = library.remote(num_cpus=1, max_retries=RETRIES)(run_task)
        with ThreadPoolExecutor(jobs) as pool:

            def submit(task: Task) -> Future[Outcome]:
                return pool.submit(outcome, task, remote.remote(task))

            def outcome(task: Task, reference: Any) -> Outcome:
                try:
                    found: Outcome = library.get(reference)
                except InputError:  # of the sweep, such as a full disk, not of the point
                    raise
                except library.exceptions.RayError as error:
                    return Outcome(task.key, done=False, body={"reason": f"lost by Ray: {error}", "seconds": 0.0})
                return found

            yield submit
    finally:
        library.shutdown()


ENGINES: dict[str, Engine] = {"processes": processes, "ray": ray}
