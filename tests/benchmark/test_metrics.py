import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sparsense.benchmark.metrics import (
    aupr,
    auroc,
    detection_accuracy,
    flagged,
    fpr95,
    fpr_at_tpr,
    roc_curve,
)
from sparsense.errors import InputError

# Whole numbers, so that ties within and between the sets are the rule.
tied = st.lists(st.integers(-4, 4), min_size=1, max_size=30)


def sklearn_inputs(inside, outside):
    return np.repeat([0, 1], [len(inside), len(outside)]), np.concatenate([inside, outside])


@given(tied, tied)
def test_auroc_is_that_of_sklearn_and_of_the_pairs(inside, outside):
    value = auroc(inside, outside)
    assert value == pytest.approx(sklearn.metrics.roc_auc_score(*sklearn_inputs(inside, outside)), abs=1e-12)
    pairs = [(a > i) + (a == i) / 2 for a in outside for i in inside]
    assert value == pytest.approx(np.mean(pairs), abs=1e-12)


@given(tied, tied)
def test_aupr_is_average_precision(inside, outside):
    truth, values = sklearn_inputs(inside, outside)
    expected_out = sklearn.metrics.average_precision_score(truth, values)
    expected_in = sklearn.metrics.average_precision_score(1 - truth, -values)
    assert aupr(inside, outside) == pytest.approx(expected_out, abs=1e-12)
    assert aupr(inside, outside, positive="in_distribution") == pytest.approx(expected_in, abs=1e-12)


@given(tied, tied, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_both_conventions_of_fpr_at_tpr(inside, outside, tpr):
    truth, values = sklearn_inputs(inside, outside)
    for positive, arguments in (("anomalous", (truth, values)), ("in_distribution", (1 - truth, -values))):
        false_positives, true_positives, _ = sklearn.metrics.roc_curve(*arguments, drop_intermediate=False)
        expected = false_positives[true_positives >= tpr - 1e-12].min()
        assert fpr_at_tpr(inside, outside, tpr=tpr, positive=positive) == pytest.approx(expected, abs=1e-12)


def test_the_conventions_in_numbers():
    inside, outside = np.arange(100), np.concatenate([np.arange(90, 96), np.full(94, 1000)])
    # 95 % of in-distribution inputs are at or below 94; the anomalies 90 .. 94 pass with them.
    assert fpr95(inside, outside) == 0.05
    # 95 % of anomalies are at or above 95; so are the in-distribution inputs 95 .. 99.
    assert fpr_at_tpr(inside, outside, positive="anomalous") == 0.05
    skewed = np.concatenate([np.full(10, -1), np.full(90, 1000)])
    assert fpr95(inside, skewed) == 0.1
    assert fpr_at_tpr(inside, skewed, positive="anomalous") == 1.0


@pytest.mark.parametrize("count", [20, 40, 60, 100, 140, 380, 1000])
def test_rounding_does_not_move_the_threshold_by_a_sample(count):
    # 0.95 * count is whole: exactly that many are kept, so exactly the anomalies up to that value pass.
    values = np.arange(count)
    assert fpr95(values, values) == pytest.approx(round(0.95 * count) / count, abs=1e-12)


@given(tied, tied)
def test_mirror_images(inside, outside):
    negated = [-i for i in inside], [-a for a in outside]
    assert auroc(*negated) == pytest.approx(1 - auroc(inside, outside), abs=1e-12)
    assert auroc(outside, inside) == pytest.approx(1 - auroc(inside, outside), abs=1e-12)
    assert fpr_at_tpr(inside, outside, positive="anomalous") == pytest.approx(fpr95(negated[1], negated[0]))


@given(tied, tied)
def test_only_the_order_counts(inside, outside):
    stretched = np.exp(inside), np.exp(outside)
    for metric in (auroc, aupr, fpr95):
        assert metric(*stretched) == pytest.approx(metric(inside, outside), abs=1e-12)


def test_gaussians_have_a_closed_form():
    random = np.random.default_rng(0)
    value = auroc(random.normal(0, 1, 200_000), random.normal(1, 2, 200_000))
    assert value == pytest.approx(stats.norm.cdf(1 / np.sqrt(5)), abs=3e-3)


def test_infinities_are_scores_like_others():
    assert auroc([-np.inf, 0], [np.inf, 1]) == 1.0


def test_rates_at_a_threshold():
    inside, outside = [0, 1, 2, 3], [2, 3, 4, 5]
    assert flagged(inside, 2) == 0.25  # strictly above, as the detector decides
    assert flagged(outside, 2) == 0.75
    assert detection_accuracy(inside, outside, 2) == 0.75


@given(tied, tied)
def test_roc_curve_encloses_the_auroc(inside, outside):
    alarms, detections = roc_curve(inside, outside)
    assert alarms[0] == detections[0] == 0
    assert alarms[-1] == detections[-1] == 1
    assert np.trapezoid(detections, alarms) == pytest.approx(auroc(inside, outside), abs=1e-12)


@pytest.mark.parametrize("metric", [auroc, aupr, fpr95])
def test_unusable_scores(metric):
    with pytest.raises(InputError, match="no in-distribution scores"):
        metric([], [1])
    with pytest.raises(InputError, match="anomalous scores: expected numbers; found NaN at index 1"):
        metric([0], [1, np.nan])


def test_bad_arguments():
    with pytest.raises(InputError, match="got 0"):
        fpr_at_tpr([0], [1], tpr=0)
    with pytest.raises(InputError, match="got 'ood'"):
        fpr_at_tpr([0], [1], positive="ood")
