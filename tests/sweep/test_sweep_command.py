"""`sparsense sweep` from the file to the report, with real runs; and on a Ray cluster of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from tiny_sweep import TINY, kill_a_worker, needs_ray
from typer.testing import CliRunner

from sparsense.cli import app
from sparsense.errors import InputError
from sparsense.sweep.engines import ray
from sparsense.sweep.points import points
from sparsense.sweep.recipe import load_sweep
from sparsense.sweep.running import Settings, run_sweep
from sparsense.sweep.store import open_store
from sparsense.sweep.task import Task

RECIPES = Path(__file__).parents[2] / "recipes" / "sweeps"
SWEEP = "name: t\nbase: tiny.yaml\nkeys: {prune.sparsity: [0.25, 0.5]}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tmp_path / "sweep.yaml"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_that_comes_along_can_be_run(path):
    if path.stem.endswith("-point"):
        pytest.skip("a base recipe, not a sweep")
    sweep = load_sweep(path)
    assert sweep.name == f"{path.stem}-sweep"
    assert len(points(sweep)) > 1


def test_a_dry_run_lists_the_points_and_writes_nothing(file):
    done = CliRunner().invoke(app, ["sweep", str(file), "--dry-run", "--output", str(file.parent / "out")])
    assert done.exit_code == 0, done.output
    assert [line.split("  ")[0] for line in done.output.splitlines()] == ["to do", "to do"]
    assert done.output.count("prune.sparsity=") == 2
    assert not (file.parent / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "dusk"], "unknown engine 'dusk'"),
        (["--report"], "there is no store"),
        (["--set", "prune.sparsty=1"], "Did you mean 'sparsity'"),
    ],
)
def test_mistakes_are_explained(file, arguments, message):
    done = CliRunner().invoke(app, ["sweep", str(file), "--output", str(file.parent / "out"), *arguments])
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_and_repeats_nothing(file):
    out = file.parent / "out"
    command = [sys.executable, "-m", "sparsense", "sweep", str(file), "--output", str(out)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list((out / "points").glob("*/card.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    written = {path: path.stat().st_mtime_ns for path in (out / "points").glob("*/card.json")}
    assert len(written) == 1
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "2 points done, 0 failed, 0 left" in done.stdout
    assert all(path.stat().st_mtime_ns == then for path, then in written.items())
    with open_store(out / "sweep.sqlite", read_only=True) as store:
        assert Counter(event.kind for event in store.events) == {"sweep": 2, "done": 2}


@pytest.mark.slow
def test_the_sweep_of_the_digits_ends_with_a_frontier(tmp_path):
    done = CliRunner().invoke(app, ["sweep", str(RECIPES / "digits.yaml"), "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    with open_store(tmp_path / "out" / "sweep.sqlite", read_only=True) as store:
        assert Counter(event.kind for event in store.events) == {"sweep": 1, "done": 4}  # nothing was tried twice
    # what the four points have in common was made once
    assert len(list((tmp_path / "out" / "shared").glob("sensitivities-*.safetensors"))) == 1
    found = json.loads((tmp_path / "out" / "frontier.json").read_text())
    assert len(found["detectors"]) == 2 + 4 * 2
    assert all(front["detectors"] for front in found["fronts"])


@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_outcomes_from_two_workers(tmp_path):
    bad = TINY.replace("digits_resnet", "no_such_network")
    tasks = [Task(f"key{i}", bad, tmp_path / "points" / str(i)) for i in range(2)]
    with ray(2) as submit:
        found = [future.result(timeout=120) for future in [submit(task) for task in tasks]]
    assert [outcome.key for outcome in found] == ["key0", "key1"]
    assert all("unknown network 'no_such_network'" in outcome.body["reason"] for outcome in found)


@needs_ray
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the worker of a run in /proc")
@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_of_a_cluster_loses_nothing_and_doubles_nothing(file):
    out, sweep = file.parent / "out", load_sweep(file)
    killed: list[int] = []
    killer = threading.Thread(target=lambda: killed.append(kill_a_worker(str(out / "points"))))
    killer.start()
    with open_store(out / "sweep.sqlite") as store:
        found = run_sweep(sweep, points(sweep), store, folder=out, settings=Settings(jobs=2, engine=ray))
        assert (found.done, found.failed, found.left) == (2, 0, 0)
        assert Counter(event.kind for event in store.events) == {"sweep": 1, "done": 2}
    killer.join(timeout=1)
    assert killed == [signal.SIGKILL]
    assert len(list((out / "points").glob("*/card.json"))) == 2


@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_a_task_that_always_loses_its_worker_is_a_failed_point(tmp_path, monkeypatch):
    monkeypatch.setattr("sparsense.sweep.engines.run_task", lambda task: os.kill(os.getpid(), signal.SIGKILL))
    with ray(1) as submit:
        outcome = submit(Task("key", TINY, tmp_path / "points" / "x")).result(timeout=120)
    assert (outcome.key, outcome.done) == ("key", False)
    assert outcome.body["reason"].startswith("lost by Ray: ")


@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_a_full_disk_of_a_cluster_ends_the_sweep(tmp_path, monkeypatch):
    def full(task):
        raise InputError("running the point x: No space left on device")

    monkeypatch.setattr("sparsense.sweep.engines.run_task", full)
    with ray(1) as submit, pytest.raises(InputError, match="No space left on device"):
        submit(Task("key", TINY, tmp_path / "points" / "x")).result(timeout=120)
