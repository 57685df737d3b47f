"""Thresholds class by class: what they promise, held against many random splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsense.calibrate import calibrate, conformal_threshold
from sparsense.class_calibration import calibrate_by_class, class_p_values
from sparsense.errors import CalibrationError

SPLITS, RATE = 1000, 0.1
SHIFTS = np.array([0.0, 1.0, 3.0])  # what class scores around what


def false_alarms(*, by_class: bool) -> np.ndarray:
    """Realised false-alarm rate of each class over many splits, [SPLITS, 3]; 60 calibration samples of each class."""
    random = np.random.default_rng(7)
    labels = np.repeat(np.arange(3), 60)
    fresh = SHIFTS[:, None] + random.standard_normal((3, 4000))
    rates = np.empty((SPLITS, 3))
    for split in range(SPLITS):
        scores = SHIFTS[labels] + random.standard_normal(180)
        if by_class:
            thresholds = calibrate_by_class(scores, labels, RATE, classes=3).thresholds
        else:
            thresholds = np.full(3, conformal_threshold(scores, RATE))
        rates[split] = (fresh > thresholds[:, None]).mean(1)
    return rates


def expected(n: int) -> float:
    return np.floor((n + 1) * RATE) / (n + 1)


def test_pooled_thresholds_keep_the_rate_on_average_and_no_class_for_itself() -> None:
    rates = false_alarms(by_class=False)
    average = rates.mean(1)
    assert average.mean() == pytest.approx(expected(180), abs=4 * average.std() / SPLITS**0.5 + 0.003)
    assert rates.mean(0)[0] < 0.005  # the easy class has almost none
    assert rates.mean(0)[2] > 0.2  # the hard one twice the rate and more


def test_class_thresholds_keep_the_rate_in_every_class() -> None:
    rates = false_alarms(by_class=True)
    sampling = 4 * np.sqrt(RATE * (1 - RATE) / 4000)  # of the 4,000 fresh scores, which all splits share
    spread = 4 * rates.std(0) / SPLITS**0.5 + sampling
    assert (np.abs(rates.mean(0) - expected(60)) < spread).all(), (rates.mean(0), expected(60), spread)


def test_each_class_is_calibrated_by_itself() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.standard_normal(200), random.integers(0, 4, 200)
    found = calibrate_by_class(scores, labels, 0.1, classes=4)
    for label in range(4):
        assert found.classes[label] == calibrate(scores[labels == label], 0.1)
    assert (found.rate, found.threshold, found.n) == (0.1, calibrate(scores, 0.1).threshold, 200)
    assert found.pooled == (False,) * 4
    row = found.to_dict()["classes"][2]
    assert row["label"] == 2
    assert row["n"] == (labels == 2).sum()


def test_a_class_with_too_few_samples_is_named_with_the_number_needed() -> None:
    labels = np.repeat([0, 1, 2, 3], [30, 19, 5, 2])
    with pytest.raises(CalibrationError, match=r"at least 19 samples .* class 2 has 5 \(and 1 more") as error:
        calibrate_by_class(np.arange(56.0), labels, 0.05, classes=4)
    assert error.value.needed == 19


def test_too_few_samples_may_share_the_pooled_threshold() -> None:
    scores, labels = np.arange(56.0), np.repeat([0, 1, 2, 3], [30, 19, 5, 2])
    found = calibrate_by_class(scores, labels, 0.05, classes=4, pool=True)
    assert found.pooled == (False, False, True, True)
    assert found.thresholds.tolist() == [29.0, 48.0, found.threshold, found.threshold]
    p = class_p_values(found, (scores, labels), [54.5, 54.5], [1, 2])
    np.testing.assert_allclose(p, [1 / 20, 2 / 57])


def test_too_few_in_all_is_an_error_even_when_pooled() -> None:
    with pytest.raises(CalibrationError, match="needs at least 19 calibration samples; got 4"):
        calibrate_by_class(np.arange(4.0), [0, 0, 1, 1], 0.05, classes=2, pool=True)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, -1] * 10, [0.0, 1.0] * 10, [0, 2] * 10])
def test_predictions_that_do_not_fit_are_refused(labels: list[float]) -> None:
    with pytest.raises(CalibrationError, match="expected 20 predicted classes from 0 to 1"):
        calibrate_by_class(np.arange(20.0), labels, 0.2, classes=2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.1, 0.25]))
def test_decisions_and_p_values_agree(seed: int, rate: float) -> None:
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.repeat([0, 1], 20), random.integers(0, 3, 40)])
    scores = random.integers(0, 15, 80) / 4  # with ties
    found = calibrate_by_class(scores, labels, rate, classes=3, pool=True)
    fresh, classes = random.integers(0, 16, 50) / 4, random.integers(0, 3, 50)
    p = class_p_values(found, (scores, labels), fresh, classes)
    np.testing.assert_array_equal(fresh > found.thresholds[classes], p <= rate + 1e-12)
