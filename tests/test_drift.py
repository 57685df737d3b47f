from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy import stats

from sparsense.calibrate import p_values
from sparsense.drift import drift_test
from sparsense.errors import CalibrationError


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_the_statistic_by_hand() -> None:
    """n = 3: the grid is 1/4 .. 1; half of the p-values are 1/4, so F(1/4) - 1/4 = 1/4 is the largest gap."""
    statistic, _ = drift_test([0.25, 0.25, 0.75, 1.0], 3)
    assert statistic == pytest.approx(0.25)
    statistic, _ = drift_test([1.0, 1.0, 1.0, 1.0], 3, alternative="any")
    assert statistic == pytest.approx(0.75)
    assert drift_test([1.0] * 4, 3)[0] == 0


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.2])
def test_it_agrees_with_the_two_sample_test_of_the_scores(shift: float) -> None:
    """The p-values are the ranks of the new scores among the calibration scores."""
    calibration, new = normal(0, 2000), normal(1, 1500) + shift
    expected = stats.ks_2samp(new, calibration, alternative="less", method="asymp")
    statistic, p = drift_test(p_values(calibration, new), 2000)
    assert statistic == pytest.approx(expected.statistic, abs=1 / 2000)
    assert p == pytest.approx(expected.pvalue, rel=0.3)
    both = stats.ks_2samp(new, calibration, method="asymp")
    statistic, p = drift_test(p_values(calibration, new), 2000, alternative="any")
    assert statistic == pytest.approx(both.statistic, abs=1 / 2000)
    assert p == pytest.approx(both.pvalue, rel=0.3)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n", "m"), [(50, 50), (200, 2000), (500, 30)])
def test_false_alarms_stay_below_the_level(n: int, m: int, ties: bool) -> None:
    """Few calibration samples and many tied scores are where the one-sample test goes wrong."""
    random = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        calibration, new = random.normal(size=n), random.normal(size=m)
        if ties:
            calibration, new = np.maximum(calibration, 0), np.maximum(new, 0)
        alarms += drift_test(p_values(calibration, new), n)[1] <= 0.05
    assert alarms / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize("lowest", [-9.0, 0.5])
def test_tied_scores_are_no_drift_in_either_direction(lowest: float) -> None:
    """Scores of 0 for most inputs, as gradients of many heads have; and without ties the numbers stay."""
    random = np.random.default_rng(0)
    alarms = found = 0
    for _ in range(400):
        calibration, new = (np.maximum(random.normal(size=n), lowest) for n in (200, 500))
        test = partial(drift_test, n=200, alternative="any")
        alarms += test(p_values(calibration, new), calibration=calibration)[1] <= 0.05
        found += test(p_values(calibration, np.maximum(new - 1, lowest)), calibration=calibration)[1] <= 0.05
        if lowest < -8:
            assert test(p_values(calibration, new)) == test(p_values(calibration, new), calibration=calibration)
    assert alarms / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert found > 390


def test_a_rise_is_found_and_a_fall_only_when_asked_for() -> None:
    calibration = normal(0, 500)
    risen, fallen = p_values(calibration, normal(1, 500) + 0.5), p_values(calibration, normal(1, 500) - 0.5)
    assert drift_test(risen, 500)[1] < 1e-6
    assert drift_test(fallen, 500)[1] > 0.5
    assert drift_test(fallen, 500, alternative="any")[1] < 1e-6


def test_equal_samples_do_not_drift_at_all() -> None:
    p = np.arange(1, 101) / 100
    assert drift_test(p, 99) == (0.0, 1.0)
    assert drift_test(p, 99, alternative="any") == (0.0, 1.0)


def test_p_values_in_single_precision_are_as_good() -> None:
    p = p_values(normal(0, 999), normal(1, 100))
    assert drift_test(p.astype(np.float32), 999) == drift_test(p, 999)


@pytest.mark.parametrize(
    ("p", "found"), [([], "got none"), ([0.0], "got 0.0 to 0.0"), ([0.5, 1.5], "0.5 to 1.5"), ([0.001], "0.001")]
)
def test_what_no_calibration_of_this_size_gives_is_refused(p: list[float], found: str) -> None:
    with pytest.raises(CalibrationError, match="p-values between 1/100 and 1") as refused:
        drift_test(p, 99)
    assert found in str(refused.value)


def test_nan_is_refused() -> None:
    with pytest.raises(CalibrationError):
        drift_test([0.5, np.nan], 99)
