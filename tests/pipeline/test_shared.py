"""What runs of a sweep share: found by what it was made of, read instead of made again, and the same."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from sparsense.detector import Scored, fit_head
from sparsense.heads import HEADS
from sparsense.pipeline.shared import judged, observations, record_file
from sparsense.recipe.load import read_recipe
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


def test_scores_of_the_dense_network_are_read_the_second_time(shared, asked):
    data, other = tiny_data("test", 30, seed=2), tiny_data("test", 20, seed=3)
    first, second = (judged(scored(), data, SEE, dense=True) for _ in range(2))
    assert asked == [30]
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.classes, second.classes)
    judged(scored(), other, SEE, dense=True)
    assert asked == [30, 20]
    judged(scored(), data, SEE, dense=False)  # of a pruned network, which no other point has
    assert asked == [30, 20, 30]


def test_another_head_is_not_mistaken_for_it(shared, asked):
    data = tiny_data("test", 30, seed=2)
    head = fit_head(tiny_graph(), HEADS["msp"](), tiny_data("fit", 60, seed=1), preprocessing=SEE)
    found = [judged(one, data, SEE, dense=True).scores for one in (scored(), head)]
    assert len(asked) == 2
    assert not np.allclose(*found)


def test_a_damaged_file_is_made_again(shared, asked):
    data = tiny_data("test", 30, seed=2)
    expected = judged(scored(), data, SEE, dense=True)
    (file,) = shared.rglob("*.npz")
    file.write_bytes(file.read_bytes()[:40])
    np.testing.assert_array_equal(judged(scored(), data, SEE, dense=True).scores, expected.scores)
    assert len(asked) == 2


def test_without_a_sweep_nothing_is_kept(tmp_path, monkeypatch, asked):
    monkeypatch.delenv("SPARSENSE_SHARED", raising=False)
    recipe, data = read_recipe(RECIPE), tiny_data("test", 30, seed=2)
    assert record_file(tiny_network(), recipe, data) is None
    assert observations(recipe, dense=True) is None
    for _ in range(2):
        judged(scored(), data, SEE, dense=True)
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


def test_what_heads_observe_is_shared_of_the_dense_network_alone(shared):
    assert observations(read_recipe(RECIPE), dense=True) == shared / "observed"
    assert observations(read_recipe(RECIPE), dense=False) is None
