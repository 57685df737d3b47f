"""How sure a measured separation is: bootstrap intervals, paired differences, DeLong's test."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sparsense.benchmark.metrics import METRICS, Array, Ranks, both_scores, count_ranks, rank_scores
from sparsense.errors import InputError

_CHUNK = 2_000_000  # counts held at once, 16 MB


class Estimate(NamedTuple):
    """A value with an interval."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high


class Pair(NamedTuple):
    """The scores of one detector on both sets."""

    in_distribution: ArrayLike
    anomalous: ArrayLike


def estimate(
    in_distribution: ArrayLike,
    anomalous: ArrayLike,
    *,
    metrics: Sequence[str] = ("auroc", "fpr95"),
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Metrics with bootstrap percentile intervals; both sets are resampled, each by itself.

    At a value of exactly 0 or 1 (perfect separation) the interval has no width: the bootstrap cannot imagine
    a score that it has not seen.

    Args:
        in_distribution: Scores `[N]`, higher = more anomalous.
        anomalous: Scores `[M]`.
        metrics: Names in `METRICS`.
        level: Of the interval, between 0 and 1.
        resamples: How often to draw.
        seed: Of the draws.

    Returns:
        An `Estimate` per metric.

    Reference:
        B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    ranks, values = rank_scores(in_distribution, anomalous)
    point, draws = count_ranks(ranks, values), _draws(ranks, values, metrics, resamples, seed)
    return {name: _estimate(METRICS[name](point), draws[name], level) for name in metrics}


def compare(
    first: Pair,
    second: Pair,
    *,
    metrics: Sequence[str] = ("auroc", "fpr95"),
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Differences `second - first` of two detectors on the same inputs, with paired bootstrap intervals.

    The same inputs are drawn for both, so what they have in common cancels.

    Args:
        first: Scores of one detector.
        second: Scores of the other, in the same order of inputs.
        metrics: Names in `METRICS`.
        level: Of the interval.
        resamples: How often to draw.
        seed: Of the draws.

    Raises:
        InputError: The numbers of inputs differ.
    """
    _check_paired(first, second)
    points, draws = [], []
    for pair in (first, second):
        ranks, values = rank_scores(*pair)
        points.append(count_ranks(ranks, values))
        draws.append(_draws(ranks, values, metrics, resamples, seed))  # equal seeds draw equal inputs
    return {
        name: _estimate(METRICS[name](points[1]) - METRICS[name](points[0]), draws[1][name] - draws[0][name], level)
        for name in metrics
    }


def delong_p_value(first: Pair, second: Pair) -> float:
    """Two-sided p-value of the hypothesis that two detectors have the same AUROC on the same inputs.

    z = (A2 - A1) / sqrt(var(V_anomalous) / M + var(V_in) / N), V the differences of the placement values.

    Args:
        first: Scores of one detector.
        second: Scores of the other, in the same order of inputs.

    Returns:
        0 to 1; 1 when the detectors rank all pairs alike.

    Reference:
        E. DeLong, D. DeLong, D. Clarke-Pearson, Biometrics 44, 1988.
    """
    _check_paired(first, second)
    (in_first, out_first), (in_second, out_second) = (_placements(pair) for pair in (first, second))
    in_difference, out_difference = in_second - in_first, out_second - out_first
    if min(len(in_difference), len(out_difference)) < 2:
        raise InputError("DeLong's test needs at least 2 inputs of each set")
    variance = in_difference.var(ddof=1) / len(in_difference) + out_difference.var(ddof=1) / len(out_difference)
    difference = abs(out_difference.mean())
    if difference == 0:
        return 1.0
    return math.erfc(difference / math.sqrt(2 * variance)) if variance > 0 else 0.0


def known_p_value(first: Pair, second: Pair) -> float | None:
    """DeLong's p-value; None where a set has a single input, of which no variance is known."""
    alone = min(np.size(first.in_distribution), np.size(first.anomalous)) < 2
    return None if alone else delong_p_value(first, second)


def wilson_interval(successes: int, count: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share, right also for few samples and for shares near 0 and 1.

    Example:
        >>> low, high = wilson_interval(0, 50)
        >>> f"{low:.3f} {high:.3f}"
        '0.000 0.071'
    """
    if not 0 <= successes <= count or count < 1:
        raise InputError(f"expected 0 <= successes <= count and count >= 1; got {successes} of {count}")
    z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2
    share = successes / count
    centre = share + z2 / (2 * count)
    spread = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * count)) / count)
    scale = 1 + z2 / count
    return max((centre - spread) / scale, 0.0), min((centre + spread) / scale, 1.0)


def _draws(ranks: Ranks, values: int, metrics: Sequence[str], resamples: int, seed: int) -> dict[str, Array]:
    """Each metric of every resample, `[resamples]`."""
    chunks = (count_ranks(rows, values) for rows in _resampled(ranks, resamples, seed))
    drawn = [[METRICS[name](rows) for name in metrics] for rows in chunks]
    return {name: np.concatenate(column) for name, column in zip(metrics, zip(*drawn, strict=True), strict=True)}


def _resampled(ranks: Ranks, resamples: int, seed: int) -> Iterator[Ranks]:
    """Draws with replacement, as many as there are, in chunks of rows."""
    random = np.random.default_rng(seed)
    rows = max(1, _CHUNK // sum(map(len, ranks)))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        yield [part[random.integers(0, len(part), (count, len(part)))] for part in ranks]


def _estimate(value: Array, draws: Array, level: float) -> Estimate:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high))


def _placements(pair: Pair) -> tuple[Array, Array]:
    """For each in-distribution score the share of anomalies above it; for each anomaly the share below it."""
    first, second = both_scores(*pair)
    return 1 - _share_below(np.sort(second), first), _share_below(np.sort(first), second)


def _share_below(ordered: Array, values: Array) -> Array:
    """The share of `ordered` below each value, ties counted half."""
    left, right = (ordered.searchsorted(values, side) for side in ("left", "right"))
    return np.asarray((left + right) / (2 * len(ordered)))


def _check_paired(first: Pair, second: Pair) -> None:
    sizes = [tuple(np.size(part) for part in pair) for pair in (first, second)]
    if sizes[0] != sizes[1]:
        raise InputError(
            "expected both detectors' scores on the same inputs; found "
            f"{sizes[0][0]} and {sizes[1][0]} in-distribution, {sizes[0][1]} and {sizes[1][1]} anomalous scores"
        )
