"""From the file of a sweep to its points."""

from __future__ import annotations

import math

import numpy as np
import pytest
from example_sweep import BASE
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsense.errors import RecipeError
from sparsense.sweep.points import combinations, describe, draw, points
from sparsense.sweep.recipe import Range, SweepRecipe, load_sweep


@pytest.fixture
def sweep_of(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)

    def load(text: str) -> SweepRecipe:
        (tmp_path / "sweep.yaml").write_text(f"name: s\nbase: base.yaml\n{text}")
        return load_sweep(tmp_path / "sweep.yaml")

    return load


def test_a_grid_is_every_combination_in_the_order_of_the_file(sweep_of):
    sweep = sweep_of("keys: {prune.sparsity: [0.3, 0.5], heads: [[energy], [msp, energy]]}")
    found = points(sweep)
    assert [dict(point.values) for point in found] == [
        {"prune.sparsity": 0.3, "heads": ["energy"]},
        {"prune.sparsity": 0.3, "heads": ["msp", "energy"]},
        {"prune.sparsity": 0.5, "heads": ["energy"]},
        {"prune.sparsity": 0.5, "heads": ["msp", "energy"]},
    ]
    assert [head.name for head in found[1].recipe.heads] == ["msp", "energy"]
    assert found[2].recipe.prune.sparsity == 0.5
    assert len({point.recipe.name for point in found}) == len({point.key for point in found}) == 4


def test_points_that_say_the_same_are_one(sweep_of):
    found = points(sweep_of("keys: {prune.sparsity: [0.5, 0.5, 5e-1], seed: [0, 1, 0]}"))
    assert [dict(point.values) for point in found] == [
        {"prune.sparsity": 0.5, "seed": 0},
        {"prune.sparsity": 0.5, "seed": 1},
    ]
    default = points(sweep_of("keys: {prune.scope: [global]}"))[0]
    spelt = points(sweep_of("keys: {seed: [0]}"))[0]
    assert default.key == spelt.key  # what is said by default is said


def test_a_key_depends_on_all_that_a_run_does_and_not_on_its_name(sweep_of, tmp_path):
    one = points(sweep_of("keys: {seed: [3]}"))[0]
    (tmp_path / "base.yaml").write_text(BASE.replace("name: base", "name: other"))
    assert points(sweep_of("keys: {seed: [3]}"))[0].key == one.key
    assert points(sweep_of("overrides: {fit.samples: 9}\nkeys: {seed: [3]}"))[0].key != one.key
    assert points(sweep_of("keys: {seed: [3]}"), extra={"fit.samples": 9})[0].recipe.fit.samples == 9


def test_draws_depend_on_the_seed_alone(sweep_of):
    text = "search: random\npoints: 6\nseed: 4\nkeys: {prune.sparsity: {low: 0.1, high: 0.9}, seed: [1, 2, 3]}"
    assert list(combinations(sweep_of(text))) == list(combinations(sweep_of(text)))
    assert list(combinations(sweep_of(text))) != list(combinations(sweep_of(text.replace("seed: 4", "seed: 5"))))
    assert len(points(sweep_of(text))) == 6


@given(st.integers(0, 10_000), st.booleans(), st.booleans())
@settings(max_examples=60)
def test_draws_lie_in_their_range(seed, log, whole):
    random = np.random.default_rng(seed)
    values = Range(low=2.0, high=40.0, log=log, whole=whole)
    found = draw(values, random)
    assert 2 <= found <= 40
    assert isinstance(found, int) is whole


def test_a_logarithmic_range_gives_every_decade_alike():
    random = np.random.default_rng(0)
    found = [draw(Range(low=1e-4, high=1.0, log=True), random) for _ in range(4000)]
    decades = np.bincount([min(int(-math.log10(value)), 3) for value in found], minlength=4) / 4000
    np.testing.assert_allclose(decades, 0.25, atol=0.03)
    linear = [draw(Range(low=1e-4, high=1.0), random) for _ in range(4000)]
    assert abs(np.mean(linear) - 0.5) < 0.03


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keys: {prune.sparsty: [0.5]}", r"prune.sparsty: unknown key. Did you mean 'sparsity'"),
        ("keys: {prune.sparsity: [50]}", r"prune.sparsity: must be .* got 50"),
        ("keys: {heads: [[enrgy]]}", r"Did you mean 'energy'"),
        ("keys: {prune.sparsity: []}", "must not be empty"),
        ("keys: {}", "keys: must not be empty|keys: .*at least 1"),
        ("keyes: {seed: [1]}", r"unknown key. Did you mean 'keys'"),
        ("keys: {seed: {low: 1, high: 2}}", "use search: random"),
        ("search: random\nkeys: {seed: [1]}", "needs the number of points"),
        ("points: 3\nkeys: {seed: [1]}", "as many points as there are combinations"),
        ("search: random\npoints: 2\nkeys: {seed: {low: 2, high: 1}}", "low must be less than high"),
        ("search: random\npoints: 2\nkeys: {seed: {low: 0, high: 1, log: true}}", "must be above 0"),
        ("overrides: {seed: 1}\nkeys: {seed: [1]}", "'seed' is among the keys"),
        (f"keys: {{seed: {list(range(101))}, fit.samples: {list(range(1, 101))}}}", "10,100 points; the limit is"),
        ("minutes: 0\nkeys: {seed: [1]}", "minutes: must be more than 0"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(sweep_of, text, message):
    with pytest.raises(RecipeError, match=message):
        points(sweep_of(text))


def test_the_refused_point_is_named(sweep_of):
    with pytest.raises(RecipeError) as caught:
        points(sweep_of("keys: {prune.sparsity: [0.5, 70]}"), file="s.yaml")
    assert caught.value.__notes__ == ["in the sweep s.yaml at the point prune.sparsity=70"]


def test_a_base_that_is_not_there_is_named(tmp_path):
    (tmp_path / "sweep.yaml").write_text("name: s\nbase: none.yaml\nkeys: {seed: [1]}")
    with pytest.raises(RecipeError, match=r"none.yaml: there is no such file"):
        points(load_sweep(tmp_path / "sweep.yaml"))
    (tmp_path / "sweep.yaml").write_text("- 1")
    with pytest.raises(RecipeError, match="the least it needs is name, base and keys"):
        load_sweep(tmp_path / "sweep.yaml")


def test_a_point_in_words():
    assert describe({"prune.sparsity": 0.5, "seed": 1}) == "prune.sparsity=0.5, seed=1"
