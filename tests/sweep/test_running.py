"""The loop of a sweep, with invented runs in place of real ones."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from example_sweep import BASE

from benchmark.example_run import make_card, make_scores
from sparsense.errors import InputError
from sparsense.sweep.points import points
from sparsense.sweep.recipe import load_sweep
from sparsense.sweep.running import Settings, missing, run_sweep
from sparsense.sweep.store import open_store
from sparsense.sweep.task import Outcome, Task, run_task


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "sweep.yaml").write_text("name: s\nbase: base.yaml\nkeys: {seed: [1, 2, 3, 4, 5, 1]}\nminutes: 10")
    return load_sweep(tmp_path / "sweep.yaml")


class Runs:
    """An engine whose runs do what they are told, and that counts them."""

    def __init__(self, behave=lambda seed: None, seconds=1.0):
        self.behave, self.seconds = behave, seconds
        self.seen: list[int] = []
        self.now = self.most = 0
        self.lock = threading.Lock()

    @contextmanager
    def __call__(self, jobs):
        with ThreadPoolExecutor(jobs + 2) as pool:  # roomier than allowed: the loop must hold back itself
            yield partial(pool.submit, self.run)

    def run(self, task: Task) -> Outcome:
        seed = int(task.recipe.split("\nseed: ")[1].split("\n")[0])
        with self.lock:
            self.seen.append(seed)
            self.now += 1
            self.most = max(self.most, self.now)
        reason = self.behave(seed)
        with self.lock:
            self.now -= 1
        if isinstance(reason, str):
            return Outcome(task.key, done=False, body={"reason": reason, "seconds": self.seconds})
        return Outcome(task.key, done=True, body={"seconds": self.seconds, "candidates": []})


def start(sweep, folder: Path, runs: Runs, **options):
    told: list[tuple[str, int, int]] = []
    with open_store(folder / "sweep.sqlite") as store:
        settings = Settings(engine=runs, **options)
        found = run_sweep(
            sweep, points(sweep), store, folder=folder, settings=settings, progress=lambda *now: told.append(now)
        )
        return found, told, store


def test_every_point_runs_once_and_a_second_start_repeats_nothing(sweep, tmp_path):
    runs = Runs()
    found, told, store = start(sweep, tmp_path, runs)
    assert (found.done, found.failed, found.left) == (5, 0, 0)
    assert runs.seen == [1, 2, 3, 4, 5]  # 1 is listed twice
    assert told == [("points", done, 5) for done in range(6)]
    assert [event.body["values"] for event in store.latest().values()] == [{"seed": s} for s in runs.seen]
    again = Runs()
    assert start(sweep, tmp_path, again)[0] == found
    assert again.seen == []


def test_a_point_that_fails_leaves_its_reason_and_the_sweep_goes_on(sweep, tmp_path):
    found, _, store = start(sweep, tmp_path, Runs(lambda seed: "out of luck" if seed == 2 else None))
    assert (found.done, found.failed, found.left) == (4, 1, 0)
    failed = [event.body for event in store.latest().values() if event.kind == "failed"]
    assert [(body["values"], body["reason"]) for body in failed] == [({"seed": 2}, "out of luck")]
    kept = Runs()
    start(sweep, tmp_path, kept)
    assert kept.seen == []
    retried = Runs()
    assert start(sweep, tmp_path, retried, retry_failed=True)[0].done == 5
    assert retried.seen == [2]


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_no_more_points_run_at_a_time_than_asked(sweep, tmp_path, jobs):
    together = threading.Barrier(jobs)  # the first points wait until as many as asked run at once
    runs = Runs(lambda seed: together.wait(60) if seed <= jobs else time.sleep(0.01))
    start(sweep, tmp_path, runs, jobs=jobs)
    assert runs.most == jobs
    assert Counter(runs.seen) == Counter([1, 2, 3, 4, 5])


def test_the_budget_counts_all_starts_of_the_sweep(sweep, tmp_path):
    first = start(sweep, tmp_path, Runs(seconds=250.0))[0]
    assert (first.done, first.left) == (3, 2)  # 10 minutes are over after the third
    assert start(sweep, tmp_path, Runs(seconds=250.0))[0].left == 2
    longer = sweep.model_copy(update={"minutes": 13.0})
    assert start(longer, tmp_path, Runs(seconds=250.0))[0].left == 1


def test_what_was_done_before_an_interruption_is_not_repeated(sweep, tmp_path):
    def interrupted(seed):
        if seed == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(sweep, tmp_path, Runs(interrupted))
    again = Runs()
    assert start(sweep, tmp_path, again)[0].done == 5
    assert again.seen == [3, 4, 5]


def test_a_store_that_fails_in_the_middle_loses_no_finished_point(sweep, tmp_path):
    with open_store(tmp_path / "sweep.sqlite") as store:
        append, count = store.append, Counter[str]()

        def full(kind, point="", **body):
            count[kind] += 1
            if count["done"] > 2:
                raise InputError("writing to the store: database or disk is full")
            append(kind, point, **body)

        store.append = full
        with pytest.raises(InputError, match="disk is full"):
            run_sweep(sweep, points(sweep), store, folder=tmp_path, settings=Settings(engine=Runs()))
    with open_store(tmp_path / "sweep.sqlite") as store:
        assert len(missing(points(sweep), store)) == 3


# One real process


def task(tmp_path: Path, recipe: str) -> Task:
    return Task("key", recipe, tmp_path / "points" / "p")


@pytest.mark.parametrize("stopped", [True, False])
def test_a_point_that_was_stopped_leaves_nothing_to_go_on_with(tmp_path, monkeypatch, stopped):
    one = replace(task(tmp_path, BASE), watched=True)
    kept = [one.folder.with_name(f".{one.folder.name}.{kind}") for kind in ("state", "training")]
    for folder in kept:
        folder.mkdir(parents=True)
    if stopped:
        one.stop.touch()
    monkeypatch.setattr("sparsense.sweep.task._run", lambda _task: "ended")
    assert run_task(one).stopped is stopped
    assert [folder.exists() for folder in kept] == [not stopped] * 2


def test_the_message_of_a_run_is_the_reason(tmp_path):
    outcome = run_task(task(tmp_path, BASE.replace("digits_resnet", "digits_resnot")))
    assert not outcome.done
    assert "unknown network 'digits_resnot'. Did you mean 'digits_resnet'" in outcome.body["reason"]
    assert outcome.body["seconds"] > 0


def test_a_folder_that_cannot_be_written_ends_the_sweep_with_its_name(tmp_path):
    (tmp_path / "points").write_text("in the way")
    with pytest.raises(InputError, match=r"writing the recipe .*p\.yaml: .* goes on where it was"):
        run_task(task(tmp_path, BASE))


def test_a_full_disk_ends_the_sweep_and_is_no_fault_of_the_point(tmp_path, monkeypatch):
    reason = "SafetensorError: I/O error: No space left on device (os error 28)"
    monkeypatch.setattr("sparsense.sweep.task._run", lambda task: reason)
    with pytest.raises(InputError, match=r"running the point p: No space left on device\. .* goes on where it was"):
        run_task(task(tmp_path, BASE))
    monkeypatch.setattr("sparsense.sweep.task._run", lambda task: "layers leave no space")
    assert run_task(task(tmp_path, BASE)).body["reason"] == "layers leave no space"


def test_a_finished_run_that_the_store_does_not_know_is_taken(tmp_path):
    card = make_card(make_scores())
    (tmp_path / "points" / "p").mkdir(parents=True)
    card.save(tmp_path / "points" / "p" / "card.json")
    outcome = run_task(task(tmp_path, card.recipe.text))
    assert outcome.done
    assert len(outcome.body["candidates"]) == len(card.detectors)
    assert outcome.body["seconds"] < 5
    assert not (tmp_path / "points" / "p.yaml").exists()  # nothing was run


def test_what_a_killed_run_had_begun_to_write_goes(tmp_path):
    card = make_card(make_scores())
    begun, other = tmp_path / "points" / ".p.0123abcd", tmp_path / "points" / ".p.state"
    for folder in (tmp_path / "points" / "p", begun, other):
        folder.mkdir(parents=True)
    card.save(tmp_path / "points" / "p" / "card.json")
    (begun / "half.onnx").touch()
    assert run_task(task(tmp_path, card.recipe.text)).done
    assert not begun.exists()
    assert other.exists()


def test_a_card_of_another_recipe_is_not_taken(tmp_path):
    card = make_card(make_scores())
    (tmp_path / "points" / "p").mkdir(parents=True)
    card.save(tmp_path / "points" / "p" / "card.json")
    assert not run_task(task(tmp_path, "name: other")).done


def test_a_run_ends_when_its_sweep_is_gone():
    code = "from sparsense.cli.worker import follow_parent\nimport time\nfollow_parent()\nprint('up', flush=True)\n"
    child = subprocess.Popen(
        [sys.executable, "-c", f"{code}time.sleep(60)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline().strip() == b"up"
    child.stdin.close()
    assert child.wait(timeout=20) == 1
    child.stdout.close()


def test_a_run_that_ends_by_itself_leaves_with_its_own_code():
    code = "from sparsense.cli.worker import follow_parent\nfollow_parent()\nraise SystemExit(7)"
    read, write = os.pipe()
    done = subprocess.run([sys.executable, "-c", code], stdin=read, capture_output=True, check=False)
    os.close(read)
    os.close(write)
    assert (done.returncode, done.stderr) == (7, b"")
