import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sparsense.benchmark.metrics import aupr, auroc, fpr95
from sparsense.benchmark.uncertainty import Pair, compare, delong_p_value, estimate, wilson_interval
from sparsense.errors import InputError

FUNCTIONS = {
    "auroc": auroc,
    "fpr95": fpr95,
    "aupr_out": aupr,
    "aupr_in": lambda i, a: aupr(i, a, positive="in_distribution"),
}


def gaussians(random, inside=80, outside=60, shift=1.2):
    return random.normal(0, 1, inside), random.normal(shift, 1, outside)


def test_the_vectorised_bootstrap_is_the_loop():
    inside, outside = (np.round(part, 1) for part in gaussians(np.random.default_rng(0)))  # with ties
    result = estimate(inside, outside, metrics=list(FUNCTIONS), resamples=200, seed=7)
    random = np.random.default_rng(7)
    in_draws, out_draws = random.integers(0, 80, (200, 80)), random.integers(0, 60, (200, 60))
    for name, function in FUNCTIONS.items():
        loop = [function(inside[i], outside[o]) for i, o in zip(in_draws, out_draws, strict=True)]
        expected = (function(inside, outside), *np.quantile(loop, [0.025, 0.975]))
        np.testing.assert_allclose(result[name], expected, atol=1e-12)


def test_chunks_of_rows_draw_the_same_inputs_for_both_of_a_pair(monkeypatch):
    monkeypatch.setattr("sparsense.benchmark.uncertainty._CHUNK", 1000)  # 7 rows at a time
    inside, outside = gaussians(np.random.default_rng(0))
    coarse = Pair(np.round(inside), np.round(outside))  # fewer distinct values than its twin
    stretched = Pair(np.exp(coarse.in_distribution), np.exp(coarse.anomalous))
    assert compare(coarse, stretched, resamples=50)["auroc"] == (0, 0, 0)
    single = estimate(inside, outside, resamples=2000)["auroc"]
    monkeypatch.undo()
    np.testing.assert_allclose(single, estimate(inside, outside, resamples=2000)["auroc"], atol=0.01)


def test_same_seed_same_interval():
    scores = gaussians(np.random.default_rng(0))
    assert estimate(*scores, resamples=50) == estimate(*scores, resamples=50)
    assert estimate(*scores, resamples=50) != estimate(*scores, resamples=50, seed=1)


def test_intervals_of_auroc_cover_the_truth():
    random = np.random.default_rng(1)
    truth = stats.norm.cdf(1.2 / np.sqrt(2))
    covered = 0
    for trial in range(300):
        found = estimate(*gaussians(random), metrics=["auroc"], resamples=300, seed=trial)["auroc"]
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / 300 <= 0.985  # 95 % asked; binomial spread of 300 trials is 1.3 %


def test_perfect_separation_is_not_an_error():
    assert estimate([0, 1], [2, 3], resamples=20)["auroc"] == (1.0, 1.0, 1.0)


def test_paired_differences_are_the_loop():
    random = np.random.default_rng(2)
    inside, outside = gaussians(random)
    first = Pair(inside, outside)
    second = Pair(inside + random.normal(0, 0.5, 80), np.round(outside + random.normal(0, 0.5, 60)))
    result = compare(first, second, resamples=100, seed=3)["auroc"]
    draws = np.random.default_rng(3)
    rows = draws.integers(0, 80, (100, 80)), draws.integers(0, 60, (100, 60))
    loop = [
        auroc(second.in_distribution[i], second.anomalous[o]) - auroc(inside[i], outside[o])
        for i, o in zip(*rows, strict=True)
    ]
    expected = (auroc(*second) - auroc(*first), *np.quantile(loop, [0.025, 0.975]))
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_pairing_pays():
    random = np.random.default_rng(4)
    inside, outside = gaussians(random, 300, 300)
    second = Pair(inside + random.normal(0, 0.1, 300), outside + random.normal(0, 0.1, 300))
    difference = compare(Pair(inside, outside), second)["auroc"]
    single = estimate(inside, outside)["auroc"]
    assert difference.high - difference.low < 0.3 * (single.high - single.low)


def delong_by_hand(first, second):
    """The textbook form: covariance matrices of the placement values of both detectors."""

    def placements(inside, outside):
        wins = (outside[None] > inside[:, None]) + (outside[None] == inside[:, None]) / 2
        return wins.mean(axis=1), wins.mean(axis=0)

    (in_1, out_1), (in_2, out_2) = placements(*first), placements(*second)
    s_in, s_out = np.cov(in_1, in_2), np.cov(out_1, out_2)
    covariance = s_in / len(in_1) + s_out / len(out_1)
    contrast = np.array([-1, 1])
    z = (out_2.mean() - out_1.mean()) / np.sqrt(contrast @ covariance @ contrast)
    return 2 * stats.norm.sf(abs(z))


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_delong_is_the_textbook(decimals):
    random = np.random.default_rng(5)
    first = [np.round(part, decimals) for part in gaussians(random)]
    second = [np.round(part + random.normal(0, 1, len(part)), decimals) for part in first]
    assert delong_p_value(Pair(*first), Pair(*second)) == pytest.approx(delong_by_hand(first, second), rel=1e-9)


def test_delong_p_values_are_uniform_when_nothing_differs():
    random = np.random.default_rng(6)
    p_values = []
    for _ in range(400):
        inside, outside = gaussians(random)
        noisy = [Pair(*(part + random.normal(0, 0.7, len(part)) for part in (inside, outside))) for _ in range(2)]
        p_values.append(delong_p_value(*noisy))
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_delong_of_equal_and_of_degenerate_detectors():
    pair = Pair([0, 1, 2], [1, 2, 3])
    assert delong_p_value(pair, pair) == 1.0
    assert delong_p_value(pair, Pair([0, 10, 20], [10, 20, 30])) == 1.0  # same order
    assert delong_p_value(Pair([0, 0], [1, 1]), Pair([1, 1], [0, 0])) == 0.0
    with pytest.raises(InputError, match="at least 2"):
        delong_p_value(Pair([0], [1, 2]), Pair([0], [1, 2]))


def test_detectors_on_different_inputs_cannot_be_paired():
    with pytest.raises(InputError, match="found 2 and 3 in-distribution, 1 and 1 anomalous"):
        compare(Pair([0, 1], [2]), Pair([0, 1, 2], [2]))


@given(st.integers(1, 500), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_wilson_is_that_of_scipy(count, data, level):
    successes = data.draw(st.integers(0, count))
    expected = stats.binomtest(successes, count).proportion_ci(level, method="wilson")
    assert wilson_interval(successes, count, level=level) == pytest.approx(tuple(expected), abs=1e-9)


def test_wilson_refuses_nonsense():
    with pytest.raises(InputError, match="got 3 of 2"):
        wilson_interval(3, 2)
