import numpy as np
import pytest
import sklearn.metrics
from scipy import special

from sparsense.benchmark.classification import (
    accuracy,
    brier_score,
    expected_calibration_error,
    log_softmax,
    negative_log_likelihood,
)
from sparsense.errors import InputError

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 2, (200, 5))
LABELS = np.where(RANDOM.random(200) < 0.6, LOGITS.argmax(1), RANDOM.integers(0, 5, 200))
PROBABILITIES = special.softmax(LOGITS, axis=1)


def test_against_sklearn():
    assert accuracy(LOGITS, LABELS) == sklearn.metrics.accuracy_score(LABELS, LOGITS.argmax(1))
    nll = sklearn.metrics.log_loss(LABELS, PROBABILITIES)
    assert negative_log_likelihood(LOGITS, LABELS) == pytest.approx(nll, rel=1e-12)
    one_hot = np.eye(5)[LABELS]
    assert brier_score(LOGITS, LABELS) == pytest.approx(((PROBABILITIES - one_hot) ** 2).sum(1).mean(), rel=1e-12)
    assert brier_score(LOGITS[:, :2], LABELS % 2) == pytest.approx(
        2 * sklearn.metrics.brier_score_loss(LABELS % 2, special.softmax(LOGITS[:, :2], axis=1)[:, 1]), rel=1e-12
    )


@pytest.mark.parametrize("bins", [1, 5, 15, 40])
def test_ece_is_the_loop_over_bins(bins):
    confidence, right = PROBABILITIES.max(1), PROBABILITIES.argmax(1) == LABELS
    expected = 0.0
    for low in np.arange(bins) / bins:
        inside = (confidence > low) & (confidence <= low + 1 / bins)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(LOGITS, LABELS, bins=bins) == pytest.approx(expected, abs=1e-12)


def test_errors_of_different_bins_do_not_cancel():
    logits = np.log([[0.7, 0.3], [0.95, 0.05]])
    assert expected_calibration_error(logits, [0, 1], bins=5) == pytest.approx((0.3 + 0.95) / 2)
    assert expected_calibration_error(logits, [0, 1], bins=1) == pytest.approx(abs(0.3 - 0.95) / 2)


def test_ece_of_a_sure_and_wrong_classifier_is_one():
    assert expected_calibration_error([[100.0, 0.0]], [1]) == pytest.approx(1.0)
    assert expected_calibration_error([[100.0, 0.0]], [0]) == pytest.approx(0.0)


def test_a_calibrated_classifier_has_little_error():
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, (50_000, 3))
    labels = (special.softmax(logits, axis=1).cumsum(1) < random.random(50_000)[:, None]).sum(1)
    assert expected_calibration_error(logits, labels) < 0.01


def test_large_logits_do_not_overflow():
    assert negative_log_likelihood([[1e4, 0.0]], [1]) == 1e4
    assert (log_softmax(np.array([[1e4, 1e4]])) == np.log(0.5)).all()


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[0.0, 1.0]], [2], r"0 .. 1 as labels; found int64 from 2 to 2"),
        ([[0.0, 1.0]], [-1], "from -1"),
        ([[0.0, 1.0]], [0.5], "found float64"),
        ([[0.0, 1.0]], [0, 1], r"found \[1, 2\] and \[2\]"),
        ([0.0], [0], r"found \[1\]"),
        ([[0.0, np.nan]], [0], "found nan"),
    ],
)
def test_unusable_inputs(logits, labels, message):
    with pytest.raises(InputError, match=message):
        accuracy(logits, labels)
