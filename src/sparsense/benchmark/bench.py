"""Detectors against data sets: from scores and decisions to rows with intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsense.benchmark.bench_card import BenchDifference, BenchResult
from sparsense.benchmark.metrics import Array, detection_accuracy
from sparsense.benchmark.uncertainty import Pair, compare, estimate, known_p_value, wilson_interval
from sparsense.errors import InputError

METRICS = ("auroc", "aupr_out", "aupr_in", "fpr95", "fpr95_anomalous")


@dataclass(frozen=True)
class Judged:
    """What one detector says about one set.

    Args:
        scores: `[N]`, higher = more anomalous; infinite where the score is not a number.
        flags: `[N]`, what it decides.
        not_a_number: How many scores were none.
    """

    scores: Array
    flags: NDArray[np.bool_]
    not_a_number: int = 0

    @classmethod
    def of(cls, scores: ArrayLike, flags: ArrayLike) -> Judged:
        """A score that is not a number is an anomaly to a detector, and so it is here."""
        values = np.asarray(scores, np.float64)
        missing = np.isnan(values)
        return cls(np.where(missing, np.inf, values), np.asarray(flags, np.bool_), int(missing.sum()))


@dataclass(frozen=True)
class Contestant:
    """One detector on all sets.

    Args:
        name: What tables call it.
        usual: Its verdict on the in-distribution set.
        anomalous: The same for every anomalous set.
    """

    name: str
    usual: Judged
    anomalous: Mapping[str, Judged] = field(default_factory=dict)

    def pair(self, dataset: str) -> Pair:
        """Scores of the in-distribution set and of an anomalous one."""
        return Pair(self.usual.scores, self.anomalous[dataset].scores)


def result_rows(contestants: Sequence[Contestant], *, seed: int = 0, resamples: int = 1000) -> list[BenchResult]:
    """Every detector against every anomalous set."""
    return [_result(one, name, seed, resamples) for one in contestants for name in one.anomalous]


def _result(one: Contestant, dataset: str, seed: int, resamples: int) -> BenchResult:
    found = estimate(*one.pair(dataset), metrics=METRICS, seed=seed, resamples=resamples)
    measured: dict[str, Any] = {name: value.value for name, value in found.items()}
    measured |= {f"{name}_interval": value.interval for name, value in found.items()}
    usual, caught = one.usual.flags, one.anomalous[dataset].flags
    return BenchResult(
        detector=one.name,
        dataset=dataset,
        n=len(caught),
        n_in_distribution=len(usual),
        detected=float(caught.mean()),
        detected_interval=wilson_interval(int(caught.sum()), len(caught)),
        accuracy=detection_accuracy(usual, caught, 0.5),
        accuracy_interval=_accuracy_interval(usual, caught, seed, resamples),
        **measured,
    )


def _accuracy_interval(
    usual: NDArray[np.bool_], caught: NDArray[np.bool_], seed: int, resamples: int
) -> tuple[float, float]:
    """Bootstrap percentiles: the number of flagged inputs of a resample is binomial."""
    random = np.random.default_rng(seed)
    alarms = random.binomial(len(usual), usual.mean(), resamples) / len(usual)
    hits = random.binomial(len(caught), caught.mean(), resamples) / len(caught)
    low, high = np.quantile((hits + 1 - alarms) / 2, [0.025, 0.975])
    return float(low), float(high)


def difference_rows(
    contestants: Sequence[Contestant], *, seed: int = 0, resamples: int = 1000
) -> list[BenchDifference]:
    """All pairs of detectors on every anomalous set, on the same inputs, with p-values for all rows together."""
    cases = [
        (dataset, first, second)
        for dataset in (contestants[0].anomalous if contestants else ())
        for first, second in combinations(contestants, 2)
    ]
    raw = [known_p_value(first.pair(dataset), second.pair(dataset)) for dataset, first, second in cases]
    rows = []
    for (dataset, first, second), p, adjusted in zip(cases, raw, _adjusted(raw), strict=True):
        found = compare(first.pair(dataset), second.pair(dataset), seed=seed, resamples=resamples)
        better = "better" if found["auroc"].value > 0 else "worse"
        rows.append(
            BenchDifference(
                dataset=dataset,
                first=first.name,
                second=second.name,
                auroc=found["auroc"].value,
                auroc_interval=found["auroc"].interval,
                fpr95=found["fpr95"].value,
                fpr95_interval=found["fpr95"].interval,
                p=p,
                p_adjusted=adjusted,
                verdict=better if adjusted is not None and adjusted < 0.05 else "not distinguishable",  # type: ignore[arg-type]
            )
        )
    return rows


def _adjusted(raw: Sequence[float | None]) -> list[float | None]:
    """Holm's method over those that are known."""
    known = iter(holm([p for p in raw if p is not None]))
    return [None if p is None else next(known) for p in raw]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values for many tests at once: the smallest counts n-fold, the next (n - 1)-fold, never below the one before.

    Reference:
        S. Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def false_alarm_p_value(alarms: int, count: int, *, calibration: int, rate: float) -> float:
    """Probability of at least so many false alarms, if the inputs are like those of the calibration.

    The rate of a threshold from n calibration scores is Beta(l, n + 1 - l), l = floor((n + 1) rate), so the number of
    false alarms among m inputs is beta-binomial. Ties make it smaller.

    Args:
        alarms: Observed.
        count: m, inputs.
        calibration: n.
        rate: Asked for.

    Example:
        >>> round(false_alarm_p_value(5, 100, calibration=99, rate=0.05), 2)
        0.51
    """
    if not 0 <= alarms <= count:
        raise InputError(f"expected 0 to {count} false alarms; got {alarms}")
    a = math.floor((calibration + 1) * rate + 1e-9)
    b = calibration + 1 - a
    k = np.arange(alarms, count + 1)
    logs = [_log_choose(count, int(i)) + _log_beta(int(i) + a, count - int(i) + b) - _log_beta(a, b) for i in k]
    return min(1.0, math.fsum(map(math.exp, logs)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
