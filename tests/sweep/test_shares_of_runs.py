"""Intervals of differences: do they hold what they promise, on data whose truth is known?"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sparsense.benchmark.uncertainty import Pair, compare, delong_p_value, estimate
from sparsense.errors import InputError
from sparsense.sweep.shares import independent_difference, paired_difference

REPEATS = 1500


def within(hits: int, repeats: int, share: float) -> bool:
    """Whether a count is what a binomial of that share gives, but for one case in a million."""
    return stats.binomtest(hits, repeats, share).pvalue > 1e-6


def test_a_known_paired_difference():
    first = np.array([True] * 10 + [False] * 90)
    second = np.array([False] * 4 + [True] * 6 + [True] * 12 + [False] * 78)
    found = paired_difference(first, second)
    b, c, m = 12.5, 4.5, 102.0  # by hand, from the four cells
    centre, spread = (b - c) / m, 1.959964 * np.sqrt(b + c - (b - c) ** 2 / m) / m
    assert found.value == pytest.approx(0.08)
    assert found.interval == pytest.approx((centre - spread, centre + spread), abs=1e-6)


@pytest.mark.parametrize(("n", "cells"), [(40, (0.3, 0.05, 0.15, 0.5)), (300, (0.9, 0.03, 0.03, 0.04))])
def test_a_paired_interval_covers_the_truth_as_often_as_it_says(n, cells):
    random = np.random.default_rng(1)
    truth, hits = cells[2] - cells[1], 0
    for _ in range(REPEATS):
        cell = random.choice(4, n, p=cells)  # both, only first, only second, none
        found = paired_difference((cell == 0) | (cell == 1), (cell == 0) | (cell == 2))
        hits += found.low <= truth <= found.high
    assert within(hits, REPEATS, 0.95) or hits / REPEATS > 0.95


def test_pairs_that_agree_tell_more_than_independent_inputs():
    random = np.random.default_rng(2)
    first = random.random(500) < 0.9
    second = np.where(random.random(500) < 0.02, ~first, first)
    paired = paired_difference(first, second)
    loose = independent_difference((int(first.sum()), 500), (int(second.sum()), 500))
    assert paired.value == pytest.approx(loose.value)
    assert paired.high - paired.low < 0.5 * (loose.high - loose.low)


def test_a_published_independent_difference():
    found = independent_difference((48, 80), (56, 70))  # Newcombe 1998, example (a), method 10, the sign turned
    assert found.value == pytest.approx(0.2)
    assert found.interval == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_an_independent_interval_covers_the_truth():
    random = np.random.default_rng(3)
    ones, twos = random.binomial(60, 0.8, REPEATS), random.binomial(90, 0.9, REPEATS)
    found = [independent_difference((int(a), 60), (int(b), 90)) for a, b in zip(ones, twos, strict=True)]
    hits = sum(one.low <= 0.1 <= one.high for one in found)
    assert within(hits, REPEATS, 0.95) or hits / REPEATS > 0.95


@pytest.mark.parametrize(("first", "second"), [([], []), ([True], [True, False])])
def test_other_inputs_are_refused(first, second):
    with pytest.raises(InputError, match="expected the same inputs"):
        paired_difference(first, second)


# The statistics that decisions rest on, on normal scores: AUROC = Phi(shift / sqrt 2)


def test_the_bootstrap_interval_of_auroc_covers_the_truth():
    random = np.random.default_rng(4)
    truth, hits, repeats = float(stats.norm.cdf(1 / np.sqrt(2))), 0, 300
    for seed in range(repeats):
        found = estimate(
            random.normal(0, 1, 120), random.normal(1, 1, 80), metrics=("auroc",), resamples=300, seed=seed
        )["auroc"]
        hits += found.low <= truth <= found.high
    assert within(hits, repeats, 0.94)


def equal_detectors(random: np.random.Generator) -> tuple[Pair, Pair]:
    """Two detectors that see the same inputs through different noise, and are equally good."""
    usual, strange = random.normal(0, 1, 90), random.normal(1, 1, 70)
    pairs = [Pair(usual + random.normal(0, 0.7, 90), strange + random.normal(0, 0.7, 70)) for _ in range(2)]
    return pairs[0], pairs[1]


def test_delongs_test_rejects_equal_detectors_as_rarely_as_it_says():
    random = np.random.default_rng(5)
    p = np.array([delong_p_value(*equal_detectors(random)) for _ in range(REPEATS)])
    assert within(int((p < 0.05).sum()), REPEATS, 0.05)
    assert within(int((p < 0.5).sum()), REPEATS, 0.5)


def test_the_paired_bootstrap_rejects_equal_detectors_as_rarely_as_it_says():
    random = np.random.default_rng(6)
    outside, repeats = 0, 300
    for seed in range(repeats):
        found = compare(*equal_detectors(random), metrics=("auroc",), resamples=300, seed=seed)["auroc"]
        outside += not found.low <= 0 <= found.high
    assert within(outside, repeats, 0.055)
