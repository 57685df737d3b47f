"""Rows of a comparison: against scikit-learn, scipy and known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from sparsense.benchmark.bench import (
    Contestant,
    Judged,
    difference_rows,
    false_alarm_p_value,
    holm,
    result_rows,
)
from sparsense.benchmark.bench_tables import _difference
from sparsense.benchmark.numbers import NONE
from sparsense.calibrate import calibrate
from sparsense.errors import InputError


def contestant(name: str, shift: float, *, seed: int = 0, common: np.ndarray | None = None) -> Contestant:
    """Scores with ties, flags above 1; noise in common makes two contestants alike."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal(500) if common is None else common + 0.2 * random.standard_normal(500)
    values = np.round(noise + np.repeat([0, shift], [300, 200]), 1)
    usual, strange = (Judged.of(part, part > 1) for part in (values[:300], values[300:]))
    return Contestant(name, usual, {"strange": strange})


def test_every_metric_is_that_of_scikit_learn() -> None:
    one = contestant("a", 1.5)
    (row,) = result_rows([one], resamples=50)
    usual, strange = one.pair("strange")
    truth, scores = np.repeat([0, 1], [300, 200]), np.concatenate([usual, strange])
    assert row.auroc == pytest.approx(roc_auc_score(truth, scores))
    assert row.aupr_out == pytest.approx(average_precision_score(truth, scores))
    assert row.aupr_in == pytest.approx(average_precision_score(1 - truth, -scores))
    alarms, hits, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert row.fpr95_anomalous == pytest.approx(alarms[np.argmax(hits >= 0.95)])
    accepted, kept, _ = roc_curve(1 - truth, -scores, drop_intermediate=False)
    assert row.fpr95 == pytest.approx(accepted[np.argmax(kept >= 0.95)])
    assert row.detected == (strange > 1).mean()
    assert row.accuracy == pytest.approx(((strange > 1).mean() + (usual <= 1).mean()) / 2)
    assert (row.n, row.n_in_distribution) == (200, 300)
    for name in ("auroc", "aupr_out", "aupr_in", "fpr95", "fpr95_anomalous", "detected", "accuracy"):
        low, high = getattr(row, f"{name}_interval")
        assert low <= getattr(row, name) <= high
        assert 0 < high - low < 0.25


def test_the_two_conventions_of_fpr95_differ() -> None:
    usual, strange = np.arange(100.0), np.r_[np.full(10, -1.0), np.full(90, 1000.0)]
    one = Contestant("a", Judged.of(usual, usual > 95), {"x": Judged.of(strange, strange > 95)})
    (row,) = result_rows([one], resamples=20)
    assert row.fpr95 == pytest.approx(0.1)  # of anomalies pass, where 95 % of usual inputs pass
    assert row.fpr95_anomalous == 1  # of usual inputs are rejected, before 95 % of anomalies are caught


def test_accuracy_interval_covers_the_truth() -> None:
    random, inside = np.random.default_rng(0), 0
    for seed in range(200):
        usual, caught = random.random(80) < 0.1, random.random(60) < 0.7
        one = Contestant("a", Judged.of(random.random(80), usual), {"x": Judged.of(random.random(60), caught)})
        low, high = result_rows([one], seed=seed, resamples=100)[0].accuracy_interval
        inside += low <= 0.8 <= high
    assert inside / 200 > 0.88


def test_a_score_that_is_not_a_number_is_most_anomalous() -> None:
    found = Judged.of([1.0, np.nan, 3.0], [False, True, False])
    assert found.scores.tolist() == [1.0, np.inf, 3.0]
    assert found.not_a_number == 1


def test_differences_are_paired_and_signed() -> None:
    common = np.random.default_rng(3).standard_normal(500)
    weak, strong = (
        contestant(n, s, seed=i, common=common) for i, (n, s) in enumerate([("weak", 0.8), ("strong", 1.3)])
    )
    (row,) = difference_rows([weak, strong], resamples=300)
    assert (row.first, row.second, row.verdict) == ("weak", "strong", "better")
    low, high = row.auroc_interval
    assert 0 < low < row.auroc < high
    assert row.fpr95 < 0
    assert row.p < 0.001
    (turned,) = difference_rows([strong, weak], resamples=300)
    assert turned.auroc == pytest.approx(-row.auroc)
    assert turned.verdict == "worse"


def test_a_detector_against_itself_is_not_distinguishable() -> None:
    (row,) = difference_rows([contestant("a", 1.0), contestant("b", 1.0)], resamples=50)
    assert (row.auroc, row.p, row.p_adjusted, row.verdict) == (0, 1, 1, "not distinguishable")


def test_a_single_anomaly_leaves_the_test_out() -> None:
    pairs = []
    for seed in range(2):
        one = contestant("ab"[seed], 1.0, seed=seed)
        pairs.append(replace(one, anomalous={**one.anomalous, "one": Judged.of([9.0 * seed], [True])}))
    many, single = difference_rows(pairs, resamples=50)
    assert (single.dataset, single.p, single.p_adjusted) == ("one", None, None)
    assert single.auroc > 0
    assert single.verdict == "not distinguishable"
    assert many.p_adjusted == many.p
    assert _difference(single)[-3:-1] == [NONE, NONE]


def test_all_pairs_on_all_sets_share_one_adjustment() -> None:
    three = [contestant(name, shift, seed=seed) for seed, (name, shift) in enumerate([("a", 1), ("b", 1.2), ("c", 3)])]
    rows = difference_rows(three, resamples=50)
    assert [(row.first, row.second) for row in rows] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [row.p_adjusted for row in rows] == holm([row.p for row in rows])


def test_equal_detectors_are_told_apart_in_few_runs() -> None:
    wrong = 0
    for seed in range(150):
        pairs = [contestant(name, 1.0, seed=10 * seed + i) for i, name in enumerate("abc")]
        wrong += any(row.verdict != "not distinguishable" for row in difference_rows(pairs, resamples=2))
    assert wrong / 150 < 0.1


def test_holm_is_not_bonferroni() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_and_keeps_the_order(values: list[float]) -> None:
    found = holm(values)
    assert all(a >= p for a, p in zip(found, values, strict=True))
    assert max(found) <= 1
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0).all()
    assert found[int(order[0])] == min(1, len(values) * min(values))


@pytest.mark.parametrize(("n", "rate", "count"), [(99, 0.05, 60), (19, 0.05, 200), (500, 0.1, 37)])
def test_false_alarms_are_beta_binomial(n: int, rate: float, count: int) -> None:
    a = int(np.floor((n + 1) * rate + 1e-9))
    for alarms in (0, 1, count // 20, count // 3, count):
        expected = stats.betabinom.sf(alarms - 1, count, a, n + 1 - a)
        found = false_alarm_p_value(alarms, count, calibration=n, rate=rate)
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_the_p_value_of_false_alarms_is_valid_over_calibrations() -> None:
    random, small = np.random.default_rng(0), 0
    for _ in range(600):
        threshold = calibrate(random.standard_normal(49), 0.1).threshold
        alarms = int((random.standard_normal(80) > threshold).sum())
        small += false_alarm_p_value(alarms, 80, calibration=49, rate=0.1) <= 0.05
    assert small / 600 < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 600)
    assert small > 0


def test_more_false_alarms_than_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="expected 0 to 10 false alarms; got 11"):
        false_alarm_p_value(11, 10, calibration=99, rate=0.05)
