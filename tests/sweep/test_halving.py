"""Points that end early: who, compared with whom, and that nothing is lost or told twice when a sweep is killed."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial

import pytest
from example_sweep import BASE

from sparsense.errors import RecipeError, TrainingError
from sparsense.pipeline.pulse import Pulse, quality
from sparsense.sweep.entries import stopped
from sparsense.sweep.halving import Halving, read_pulse
from sparsense.sweep.points import points
from sparsense.sweep.recipe import HalvingSection, load_sweep
from sparsense.sweep.report import write_sweep_report
from sparsense.sweep.running import Settings, run_sweep
from sparsense.sweep.store import open_store
from sparsense.sweep.task import Outcome, Task
from tiny_classifier import tiny_data, tiny_network

pytest.importorskip("optuna", reason="needs optuna")

SWEEP = """
name: s
base: base.yaml
keys: {prune.sparsity: [0.5, 0.9], seed: [1, 2, 3, 4]}
halving: {least: 1, factor: 2, within: [prune.sparsity]}
"""
REACHED = {1: 0.6, 2: 0.9, 3: 0.3, 4: 0.95}  # by seed; half of it at a sparsity of 0.9
EPOCHS = 8


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return load_sweep(tmp_path / "sweep.yaml")


class Runs:
    """An engine whose runs report an accuracy after every epoch, and end when they are told to."""

    def __init__(self, die_at=None):
        self.die_at = die_at
        self.epochs: dict[tuple[float, int], int] = {}

    @contextmanager
    def __call__(self, jobs):
        with ThreadPoolExecutor(jobs) as pool:
            yield partial(pool.submit, self.run)

    def run(self, task: Task) -> Outcome:
        seed, sparsity = (float(task.recipe.split(f"{key}: ")[1].split("\n")[0]) for key in ("\nseed", "sparsity"))
        if (sparsity, int(seed)) == self.die_at:
            raise KeyboardInterrupt
        task.pulse.parent.mkdir(parents=True, exist_ok=True)
        for epoch in range(1, EPOCHS + 1):
            value = REACHED[int(seed)] * (1 if sparsity == 0.5 else 0.5)
            with task.pulse.open("a") as stream:
                stream.write(json.dumps({"epoch": epoch, "value": value}) + "\n")
            self.epochs[sparsity, int(seed)] = epoch
            wait_until_heard(task, epoch)
            if task.stop.exists():
                return Outcome(task.key, False, {"reason": "told to", "seconds": 1.0}, stopped=True)
        return Outcome(task.key, True, {"seconds": 1.0, "candidates": [], "folder": str(task.folder)})


def wait_until_heard(task, epoch):
    while (task.key, epoch) not in HEARD and not task.stop.exists():
        pass


HEARD: set[tuple[str, int]] = set()


@pytest.fixture(autouse=True)
def hear(monkeypatch):
    """Runs go on when they were heard, as real ones, which take longer than a tick, nearly always are."""
    HEARD.clear()
    monkeypatch.setattr("sparsense.sweep.running.TICK", 0.001)
    tell = Halving.tell

    def told(self, key, reports):
        reports = list(reports)
        found = tell(self, key, reports)
        if not found:
            HEARD.update((key, step) for step, _ in reports)
        return found

    monkeypatch.setattr(Halving, "tell", told)


def start(sweep, folder, runs):
    with open_store(folder / "sweep.sqlite") as store:
        tally = run_sweep(sweep, points(sweep), store, folder=folder, settings=Settings(engine=runs))
        return tally, store


def test_the_better_half_of_those_that_came_so_far_goes_on(sweep, tmp_path):
    runs = Runs()
    tally, store = start(sweep, tmp_path, runs)
    assert (tally.done, tally.stopped, tally.failed, tally.left) == (6, 2, 0, 0)
    for sparsity in (0.5, 0.9):  # 3 is worse than 1 and 2; the small ones compete with each other alone
        assert {seed: runs.epochs[sparsity, seed] for seed in REACHED} == {1: EPOCHS, 2: EPOCHS, 3: 1, 4: EPOCHS}
    assert [(point.values["seed"], point.epoch, point.value) for point in stopped(store)] == [(3, 1, 0.3), (3, 1, 0.15)]
    assert not list((tmp_path / "points").iterdir())  # nothing is left of what they reported


def test_without_groups_everything_small_would_end(sweep, tmp_path):
    apart = sweep.model_copy(update={"halving": HalvingSection(factor=2)})
    runs = Runs()
    start(apart, tmp_path, runs)
    assert all(runs.epochs[0.9, seed] < EPOCHS for seed in REACHED)


def test_a_sweep_that_was_interrupted_decides_as_one_that_was_not(sweep, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _, expected = start(sweep, whole, Runs())
    with pytest.raises(KeyboardInterrupt):
        start(sweep, broken, Runs(die_at=(0.9, 2)))
    again = Runs()
    tally, store = start(sweep, broken, again)
    assert (tally.done, tally.stopped) == (6, 2)
    assert set(again.epochs) == {(0.9, 2), (0.9, 3), (0.9, 4)}
    kinds = [[(event.point, event.kind) for event in s.events if event.point] for s in (expected, store)]
    assert kinds[0] == kinds[1]


def test_reports_that_come_twice_count_once(sweep, tmp_path):
    with open_store(tmp_path / "s.sqlite") as store:
        halving = Halving(sweep.halving, points(sweep), store)
        first, second = (point.key for point in points(sweep)[:2])
        assert not halving.tell(first, [(1, 0.5)])
        assert not halving.tell(first, [(1, 0.5), (2, 0.6)])
        assert halving.reports(first) == [(1, 0.5), (2, 0.6)]
        assert halving.tell(second, [(1, 0.1)])


def test_a_line_that_is_being_written_waits(tmp_path):
    file = tmp_path / "x.pulse"
    assert read_pulse(file) == []
    file.write_text('{"epoch": 1, "value": 0.5}\n{"epo')
    assert read_pulse(file) == [(1, 0.5)]


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path):
    network, data = tiny_network(), tiny_data("train", 60, seed=4)
    file = tmp_path / "x.pulse"
    file.write_text('{"epoch": 1, "value": 0.5}\n{"epoch": 2, "va')  # as a full disk leaves it
    again = Pulse(file, network, data)
    again.load_state({"epochs": 1})
    again.update(network.module)
    assert read_pulse(file) == [(1, 0.5), (2, quality(network, data))]


def test_stopped_points_are_in_the_report(sweep, tmp_path):
    start(sweep, tmp_path, Runs())
    with open_store(tmp_path / "sweep.sqlite", read_only=True) as store:
        write_sweep_report(store, tmp_path)
    assert "| prune.sparsity=0.5, seed=3 | 1 | 0.300 |" in (tmp_path / "report.md").read_text()
    assert "Stopped early" in (tmp_path / "report.html").read_text()
    assert len(json.loads((tmp_path / "frontier.json").read_text())["stopped"]) == 2


def test_points_are_compared_by_keys_of_the_sweep(tmp_path, sweep):
    (tmp_path / "sweep.yaml").write_text(SWEEP.replace("within: [prune.sparsity]", "within: [prune.scope]"))
    with pytest.raises(RecipeError, match=r"'prune\.scope' is not among the keys"):
        load_sweep(tmp_path / "sweep.yaml")


# The run's side


def test_a_pulse_tells_the_accuracy_and_ends_when_it_is_told_to(tmp_path):
    network, data = tiny_network(), tiny_data("train", 60, seed=4)
    pulse = Pulse(tmp_path / "p.pulse", network, data)
    network.module.train()
    assert pulse.update(network.module) is False
    assert network.module.training
    network.module.eval()
    assert read_pulse(tmp_path / "p.pulse") == [(1, quality(network, data))]
    assert 0.8 < quality(network, data) < 1  # one label in ten is replaced
    later = Pulse(tmp_path / "p.pulse", network, data)
    later.load_state(pulse.state())
    (tmp_path / "p.stop").touch()
    with pytest.raises(TrainingError, match="stopped by the sweep after epoch 2"):
        later.update(network.module)


def test_a_run_that_is_watched_reports_and_ends_the_same(tmp_path, monkeypatch):
    from sparsense.benchmark.card import load_card
    from sparsense.pipeline import run_recipe
    from sparsense.recipe.load import read_recipe

    small = {"data.train.limit": 80, "data.calibration.limit": 40, "data.test.limit": 40, "sensitivity.samples": 20,
             "finetune.epochs": 2, "heads": ["energy"], "fit.samples": 40, "benchmark": None, "prune.sparsity": 0.3,
             "calibrate.false_alarm_rate": 0.1, "batch_norm.samples": 40}  # fmt: skip
    recipe = read_recipe(BASE, small)
    alone = load_card(run_recipe(recipe, output=tmp_path / "alone") / "card.json")
    monkeypatch.setenv("SPARSENSE_PULSE", str(tmp_path / "watched.pulse"))
    watched = load_card(run_recipe(recipe, output=tmp_path / "watched") / "card.json")
    assert [epoch for epoch, _ in read_pulse(tmp_path / "watched.pulse")] == [1, 2]
    rows = [[row for row in card.accuracy if row.stage == "fine-tuned"] for card in (alone, watched)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 1


def test_a_store_of_the_first_schema_is_brought_up_to_date(tmp_path):
    file = tmp_path / "old.sqlite"
    with open_store(file) as store:
        store.append("sweep", name="x", text="", points=[], jobs=1)
    with closing(sqlite3.connect(file)) as connection:  # as version 1 had made it
        connection.executescript(
            "BEGIN; DROP TRIGGER events_never_change; DROP TRIGGER events_never_go; ALTER TABLE events RENAME TO new;"
            "CREATE TABLE events (number INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL CHECK (kind IN "
            "('sweep', 'done', 'failed')), point TEXT NOT NULL, body TEXT NOT NULL, digest TEXT NOT NULL) STRICT;"
            "INSERT INTO events SELECT * FROM new; DROP TABLE new;"
            "CREATE TRIGGER events_never_change BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'no'); END;"
            "CREATE TRIGGER events_never_go BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'no'); END;"
            "PRAGMA user_version = 1; COMMIT;"
        )
    with open_store(file, read_only=True) as store:
        assert [event.kind for event in store.events] == ["sweep"]
    with open_store(file) as store:
        store.append("stopped", "p", values={}, reports=[[1, 0.5]])
    with open_store(file) as store:
        assert [event.kind for event in store.events] == ["sweep", "stopped"]
