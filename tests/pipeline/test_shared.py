"""What runs of a sweep share: found by what it was made of, read instead of made again, and the same."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from threading import Thread

import jobs
import numpy as np
import pytest

from sparsense.detector import Scored, fit_head
from sparsense.errors import InputError
from sparsense.heads import HEADS
from sparsense.pipeline.records import pruned_record
from sparsense.pipeline.shared import judged, observations, pruning_state, record_file
from sparsense.pipeline.state import State, kept_state
from sparsense.recipe.load import read_recipe
from sparsense.training.loop import Training
from tiny_classifier import tiny_data, tiny_graph, tiny_network

RECIPE = """
name: x
network: {source: digits_resnet}
data:
  train: {source: digits, split: train}
  calibration: {source: digits, split: calibration}
  test: {source: digits, split: test}
"""


@cache
def scored():
    return fit_head(tiny_graph(), HEADS["energy"](), tiny_data("fit", 60, seed=1), preprocessing=SEE)


SEE = tiny_network().preprocessing


@pytest.fixture
def shared(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSENSE_SHARED", str(tmp_path / "shared"))
    return tmp_path / "shared"


@pytest.fixture
def asked(monkeypatch):
    """How many inputs detectors were asked about."""
    counts: list[int] = []
    judge = Scored.judge

    def counted(self, inputs):
        counts.append(len(inputs))
        return judge(self, inputs)

    monkeypatch.setattr(Scored, "judge", counted)
    return counts


def test_scores_are_read_the_second_time(shared, asked):
    data, other = tiny_data("test", 30, seed=2), tiny_data("test", 20, seed=3)
    first, second = (judged(scored(), data, SEE) for _ in range(2))
    assert asked == [30]
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.classes, second.classes)
    judged(scored(), other, SEE)
    assert asked == [30, 20]


def test_another_head_is_not_mistaken_for_it(shared, asked):
    data = tiny_data("test", 30, seed=2)
    head = fit_head(tiny_graph(), HEADS["msp"](), tiny_data("fit", 60, seed=1), preprocessing=SEE)
    found = [judged(one, data, SEE).scores for one in (scored(), head)]
    assert len(asked) == 2
    assert not np.allclose(*found)


def test_a_damaged_file_is_made_again(shared, asked):
    data = tiny_data("test", 30, seed=2)
    expected = judged(scored(), data, SEE)
    (file,) = shared.rglob("*.npz")
    file.write_bytes(file.read_bytes()[:40])
    np.testing.assert_array_equal(judged(scored(), data, SEE).scores, expected.scores)
    assert len(asked) == 2


def test_without_a_sweep_nothing_is_kept(tmp_path, monkeypatch, asked):
    monkeypatch.delenv("SPARSENSE_SHARED", raising=False)
    recipe, data = read_recipe(RECIPE), tiny_data("test", 30, seed=2)
    assert record_file(tiny_network(), recipe, data) is None
    assert observations(recipe) is None
    for _ in range(2):
        judged(scored(), data, SEE)
    assert asked == [30, 30]


def test_a_record_is_known_by_network_samples_and_loss(shared):
    recipe, data, network = read_recipe(RECIPE), tiny_data("train", 30, seed=2), tiny_network()
    file = record_file(network, recipe, data)
    assert file == record_file(network, read_recipe(RECIPE, {"name": "y", "prune.sparsity": 0.3}), data)
    others = [
        record_file(tiny_network(bias=False), recipe, data),
        record_file(network, recipe, tiny_data("train", 30, seed=3)),
        *(record_file(network, read_recipe(RECIPE, {key: value}), data) for key, value in (
            ("sensitivity.loss", "energy"), ("sensitivity.samples", 7), ("sensitivity.batch_size", 3), ("seed", 1))),
    ]  # fmt: skip
    assert len({file, *others}) == 7
    assert record_file(network, read_recipe(RECIPE, {"sensitivity.record": "mine"}), data) == "mine"


def test_what_heads_observe_is_shared(shared):
    assert observations(read_recipe(RECIPE)) == shared / "observed"
    assert observations(read_recipe(RECIPE, {"fit.cache": "mine"})) == Path("mine")


def test_the_record_of_a_pruned_network_is_made_once(shared, monkeypatch):
    recipe, data, network = read_recipe(RECIPE), tiny_data("train", 30, seed=2), tiny_network()
    first = pruned_record(network, recipe, data, lambda *_: None)
    monkeypatch.setattr("sparsense.pipeline.records.record_of", no)
    again = pruned_record(network, read_recipe(RECIPE, {"sensitivity.record": "of-the-dense"}), data, lambda *_: None)
    assert again.info == first.info
    assert again.moments.keys() == first.moments.keys()


def no(*_args, **_options):
    raise AssertionError("done again")


# Pruning and fine-tuning: once for all that only differ afterwards


PRUNING = {"prune.structure": "weight", "prune.sparsity": 0.5, "finetune": {"epochs": 2, "batch_size": 32}}


def pruned(place, changes, facts=("data", "network")):
    """The pruning half of a run."""
    asked = jobs.recipe({**PRUNING, **changes})
    with kept_state(place, "own") as own, pruning_state(asked, facts, own) as kept:
        return jobs.pruned({**PRUNING, **changes}, kept)


@pytest.fixture
def epochs(monkeypatch):
    """How many epochs were trained."""
    counts: list[int] = []
    epoch = Training.epoch

    def counted(self, **options):
        counts.append(1)
        return epoch(self, **options)

    monkeypatch.setattr(Training, "epoch", counted)
    return counts


def test_runs_that_prune_alike_prune_once(shared, tmp_path, epochs):
    first = pruned(tmp_path / "a", {})
    assert len(epochs) == 2
    second = pruned(tmp_path / "b", {"precision": "int8", "heads": ["energy"], "fit.samples": 50, "name": "other"})
    assert len(epochs) == 2
    assert jobs.same(first, second)


@pytest.mark.parametrize("change", [{"prune.sparsity": 0.4}, {"batch_norm.samples": 50}, {"seed": 1}])
def test_runs_that_prune_otherwise_do_not_meet(shared, tmp_path, epochs, change):
    assert not jobs.same(pruned(tmp_path / "a", {}), pruned(tmp_path / "b", change))
    assert len(epochs) == 4


def test_other_data_do_not_meet(shared, tmp_path, epochs):
    pruned(tmp_path / "a", {}, ("data", "network"))
    pruned(tmp_path / "a", {}, ("other", "network"))
    assert len(epochs) == 4


def test_a_watched_run_reports_its_own_epochs(shared, tmp_path, epochs, monkeypatch):
    pruned(tmp_path / "a", {})
    monkeypatch.setenv("SPARSENSE_PULSE", str(tmp_path / "pulse"))
    pruned(tmp_path / "b", {"precision": "int8"})
    assert len(epochs) == 4
    assert (tmp_path / "pulse").read_text().count("\n") == 2


def test_an_interrupted_pruning_is_gone_on_with_by_the_next_run(shared, tmp_path, epochs):
    def stop(what, done, _of):
        if what == "fine-tuning" and done == 7:
            raise KeyboardInterrupt

    whole, asked = pruned(tmp_path / "a", {}), jobs.recipe(PRUNING)
    shutil.rmtree(shared)
    epochs.clear()
    with (
        pytest.raises(KeyboardInterrupt),
        kept_state(tmp_path / "a", "own") as own,
        pruning_state(asked, ("data", "network"), own) as kept,
    ):
        jobs.pruned(PRUNING, kept, stop)
    assert jobs.same(whole, pruned(tmp_path / "b", {}))
    assert len(epochs) == 3  # the second was interrupted


def test_a_pruning_that_ended_with_an_error_is_not_gone_on_with(shared, tmp_path):
    def diverge():
        with pruning_state(jobs.recipe(PRUNING), ("x",), State(tmp_path, "")) as kept:
            found.append(kept)
            kept.begin()
            raise InputError("no")

    found: list[State] = []
    with pytest.raises(InputError, match="no"):
        diverge()
    assert not found[0].begun


def test_the_second_waits_for_the_first(shared, tmp_path):
    order: list[str] = []
    asked, own = jobs.recipe(PRUNING), State(tmp_path, "")

    def second():
        with pruning_state(asked, ("x",), own):
            order.append("second")

    with pruning_state(asked, ("x",), own):
        thread = Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
