"""Hopeless points end early on a cluster, too; a killed worker loses and doubles nothing of what was reported."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
from tiny_sweep import TINY, kill_a_worker, needs_ray

from sparsense.sweep.engines import ray
from sparsense.sweep.halving import read_pulse
from sparsense.sweep.points import points
from sparsense.sweep.recipe import load_sweep
from sparsense.sweep.running import Settings, run_sweep
from sparsense.sweep.store import Event, open_store

pytest.importorskip("optuna", reason="needs optuna")
pytestmark = [needs_ray, pytest.mark.filterwarnings("ignore")]

EPOCHS = 40
LEARNS, ALSO, HOPELESS = 0.05, 1e-5, 1e-6
"""Learning rates; the last one begins when one of the others has ended."""
SWEEP = f"""
name: t
base: tiny.yaml
overrides: {{network.weights: null, finetune: {{epochs: {EPOCHS}, batch_size: 20}}, prune.align: none}}
keys: {{finetune.learning_rate: [{LEARNS}, {ALSO}, {HOPELESS}]}}
halving: {{least: 5, factor: 2}}
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tmp_path / "out"


def start(out: Path) -> list[Event]:
    """Run the sweep on a cluster of two workers; the rows of its points."""
    sweep = load_sweep(out.parent / "sweep.yaml")
    with open_store(out / "sweep.sqlite") as store:
        run_sweep(sweep, points(sweep), store, folder=out, settings=Settings(jobs=2, engine=ray))
        return [event for event in store.events if event.point]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the worker of a run in /proc")
def test_a_hopeless_point_ends_early_and_a_killed_worker_reports_nothing_twice(out):
    killed: list[int] = []

    def kill():
        place = out / "points" / points(load_sweep(out.parent / "sweep.yaml"))[0].recipe.name
        while len(read_pulse(place.with_suffix(".pulse"))) < 3:
            time.sleep(0.05)
        killed.append(kill_a_worker(str(place)))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    events = start(out)
    killer.join(timeout=1)
    assert killed == [signal.SIGKILL]
    found = {event.body["values"]["finetune.learning_rate"]: event for event in events}
    assert len(events) == len(found) == 3  # every point ended, and ended once
    for event in events:  # every epoch once, none left out, whichever worker it was
        steps = [step for step, _ in event.body["reports"]]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) == EPOCHS if event.kind == "done" else 5 <= len(steps) < EPOCHS
    assert found[HOPELESS].kind == "stopped"
    assert found[LEARNS].kind == "done"
    assert not [*(out / "points").glob("*.pulse"), *(out / "points").glob("*.stop")]
