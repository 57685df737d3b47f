from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from sparsense.calibrate import (
    calibrate,
    conformal_threshold,
    p_values,
    realised_rate_interval,
    samples_needed,
)
from sparsense.errors import CalibrationError

rates = st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 0.7, 0.9])
few_values = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=200)  # many ties
any_values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200)


def test_by_hand() -> None:
    scores = [5.0, 1, 4, 2, 3, 9, 8, 7, 6]  # n = 9: rate 0.2 allows 2 of 10, so 2 scores lie at or above
    assert conformal_threshold(scores, 0.2) == 8
    assert conformal_threshold(scores, 0.1) == 9
    np.testing.assert_allclose(p_values(scores, [0, 9, 9.5, 5]), [1.0, 0.2, 0.1, 0.6])


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_a_decimal_rate_is_taken_as_written(rate: float) -> None:
    """In binary, (n + 1)(1 - 0.9) is 0.99..., which would cost one sample."""
    n = 9
    assert conformal_threshold(range(1, n + 1), rate) == n + 1 - round(10 * rate)


@given(scores=few_values | any_values, rate=rates)
def test_the_threshold_is_the_right_order_statistic(scores: list[float], rate: float) -> None:
    assume(len(scores) >= samples_needed(rate))
    n = len(scores)
    k = n + 1 - int(round((n + 1) * rate * 1e6) // 1e6)
    assert conformal_threshold(scores, rate) == sorted(scores)[k - 1]


@given(calibration=few_values | any_values, new=few_values | any_values, rate=rates)
def test_an_anomaly_is_exactly_a_p_value_within_the_rate(
    calibration: list[float], new: list[float], rate: float
) -> None:
    assume(len(calibration) >= samples_needed(rate))
    threshold = conformal_threshold(calibration, rate)
    np.testing.assert_array_equal(np.array(new) > threshold, p_values(calibration, new) <= rate + 1e-12)


@given(calibration=few_values | any_values, new=few_values | any_values)
def test_p_values_equal_the_formula_and_fall_with_the_score(calibration: list[float], new: list[float]) -> None:
    p = p_values(calibration, new)
    n = len(calibration)
    np.testing.assert_allclose(p, [(1 + sum(c >= s for c in calibration)) / (n + 1) for s in new])
    assert (np.diff(p[np.argsort(new)]) <= 0).all()


@given(scores=any_values, rate=rates, seed=st.integers(0, 99))
def test_the_order_of_the_samples_does_not_matter(scores: list[float], rate: float, seed: int) -> None:
    assume(len(scores) >= samples_needed(rate))
    shuffled = np.random.default_rng(seed).permutation(scores)
    assert conformal_threshold(shuffled, rate) == conformal_threshold(scores, rate)


def test_p_values_keep_the_shape_and_take_infinity() -> None:
    found = p_values([1, 2, 3], [[-np.inf, 1.5], [2.5, np.inf]])
    np.testing.assert_allclose(found, [[1.0, 0.75], [0.5, 0.25]])


# The guarantee


def realised_rates(n: int, rate: float, *, ties: bool = False) -> np.ndarray:
    """The exact false-alarm rates of the thresholds from 1,000 random calibration sets."""
    calibration = np.random.default_rng(0).standard_t(3, (1000, n))
    if ties:  # whole numbers: a new score exceeds t when the number before rounding exceeds t + 1/2
        calibration = np.round(calibration)
    thresholds = np.array([conformal_threshold(row, rate) for row in calibration])
    return np.asarray(stats.t.sf(thresholds + (0.5 if ties else 0), 3))


@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (99, 0.05), (400, 0.05), (250, 0.01)])
def test_the_rate_holds_over_a_thousand_random_splits(n: int, rate: float) -> None:
    """The mean is floor((n + 1) rate) / (n + 1); its error follows from the Beta distribution of the rates."""
    realised = realised_rates(n, rate)
    alarms = int((n + 1) * rate + 1e-9)
    spread = stats.beta.std(alarms, n + 1 - alarms) / np.sqrt(1000)
    assert abs(realised.mean() - alarms / (n + 1)) < 4 * spread


@pytest.mark.parametrize(("n", "rate"), [(99, 0.05), (250, 0.01)])
def test_ties_can_only_lower_the_rate(n: int, rate: float) -> None:
    assert realised_rates(n, rate, ties=True).mean() <= rate


@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (99, 0.05), (400, 0.05)])
def test_the_interval_holds_the_realised_rate_19_times_in_20(n: int, rate: float) -> None:
    low, high = realised_rate_interval(n, rate)
    realised = realised_rates(n, rate)
    inside = ((realised >= low) & (realised <= high)).mean()
    assert abs(inside - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 1000)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("n", "rate"), [(1, 0.5), (19, 0.05), (99, 0.05), (1000, 0.01), (50_000, 0.2)])
def test_the_interval_is_that_of_the_beta_distribution(n: int, rate: float, confidence: float) -> None:
    alarms = int((n + 1) * rate + 1e-9)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    np.testing.assert_allclose(
        realised_rate_interval(n, rate, confidence=confidence),
        stats.beta.ppf(tails, alarms, n + 1 - alarms),
        rtol=1e-9,
    )


def test_calibrate_says_it_all_at_once() -> None:
    found = calibrate(np.arange(99), 0.05)
    assert found.to_dict() == {
        "rate": 0.05,
        "threshold": 94.0,
        "n": 99,
        "interval": realised_rate_interval(99, 0.05),
    }


# Refusals


@pytest.mark.parametrize("rate", [0.4, 0.05, 0.07, 0.001, 1 / 3])
def test_the_number_needed_is_the_least_that_works(rate: float) -> None:
    needed = samples_needed(rate)
    conformal_threshold(np.arange(needed), rate)
    with pytest.raises(CalibrationError, match=f"needs at least {needed} calibration samples") as refused:
        conformal_threshold(np.arange(needed - 1), rate)
    assert refused.value.needed == needed


def test_too_few_samples_name_both_ways_out() -> None:
    with pytest.raises(CalibrationError) as refused:
        calibrate(np.arange(50), 0.001)
    assert str(refused.value) == (
        "a false-alarm rate of 0.001 needs at least 999 calibration samples; got 50: "
        "give more, or allow a rate of at least 0.0197"
    )
    calibrate(np.arange(50), 0.0197)


@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5, float("nan")])
def test_a_rate_outside_the_open_interval(rate: float) -> None:
    with pytest.raises(CalibrationError, match="must lie between 0 and 1; got"):
        calibrate(np.arange(100), rate)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(CalibrationError, match="finite scores: 1 of 100 are NaN or infinite"):
        calibrate([*range(99), bad], 0.05)
    with pytest.raises(CalibrationError, match="finite scores"):
        p_values([1.0, bad], [0.0])


def test_p_values_of_nan() -> None:
    with pytest.raises(CalibrationError, match="1 of the scores are NaN"):
        p_values([1.0], [0.0, np.nan])


@pytest.mark.parametrize("scores", [[], [[1.0, 2.0]], 3.0])
def test_scores_of_another_shape(scores: object) -> None:
    with pytest.raises(CalibrationError, match=r"needs scores of shape \[n\], n >= 1; got shape"):
        calibrate(scores, 0.05)  # type: ignore[arg-type]
