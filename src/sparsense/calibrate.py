"""From held-out scores to a threshold with a guaranteed false-alarm rate: split-conformal calibration.

If calibration and future inputs are exchangeable, `score > threshold` has probability <= rate for any score.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsense.errors import CalibrationError


@dataclass(frozen=True)
class Calibration:
    """A threshold and what it promises.

    Args:
        rate: The allowed false-alarm rate.
        threshold: `score > threshold` is an anomaly.
        n: Number of calibration samples.
        interval: Where the realised false-alarm rate of this very threshold lies, with 95 % probability over
            the draw of the calibration samples.
    """

    rate: float
    threshold: float
    n: int
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for the card."""
        return asdict(self)


def calibrate(scores: ArrayLike, rate: float) -> Calibration:
    """Threshold, number of samples and guarantee in one.

    Args:
        scores: `[n]` scores of held-out in-distribution inputs, never used to fit the head.
        rate: Allowed false-alarm rate, 0 < rate < 1.

    Raises:
        CalibrationError: Too few samples for the rate; NaN; infinity; a rate outside (0, 1).

    Example:
        >>> calibrate(range(1, 100), rate=0.05).threshold
        95.0
    """
    n = len(_checked(scores))
    return Calibration(rate, conformal_threshold(scores, rate), n, realised_rate_interval(n, rate))


def conformal_threshold(scores: ArrayLike, rate: float) -> float:
    """The ceil((n + 1)(1 - rate))-th smallest score.

    Ties with the threshold are no anomalies, so the false-alarm rate can only be smaller than asked.

    Args:
        scores: `[n]`, finite.
        rate: Allowed false-alarm rate, 0 < rate < 1.

    Returns:
        One of the scores; exactly the inputs with `score > threshold` have `p_value <= rate`.

    Raises:
        CalibrationError: Fewer than `samples_needed(rate)` scores; it carries this number.

    Reference:
        Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; Laxhammar, Falkman,
        "Conformal prediction for distribution-independent anomaly detection", 2010.
    """
    checked = _checked(scores)
    above = _alarms(len(checked), rate)
    return float(np.partition(checked, len(checked) - above)[len(checked) - above])


def p_values(calibration: ArrayLike, scores: ArrayLike) -> NDArray[np.float64]:
    """How rarely an in-distribution input scores at least as high.

    p = (1 + #{calibration >= score}) / (n + 1)

    Args:
        calibration: `[n]` held-out in-distribution scores.
        scores: Any shape; NaN is refused.

    Returns:
        Shaped like `scores`, in [1 / (n + 1), 1]; lower = more anomalous.

    Example:
        >>> p_values([1, 2, 3], [0, 2, 9]).tolist()
        [1.0, 0.75, 0.25]
    """
    ordered, asked = np.sort(_checked(calibration)), np.asarray(scores, np.float64)
    if np.isnan(asked).any():
        raise CalibrationError(f"p-values need numbers: {np.isnan(asked).sum()} of the scores are NaN")
    at_least = len(ordered) - np.searchsorted(ordered, asked, side="left")
    return np.asarray((1 + at_least) / (len(ordered) + 1))


def samples_needed(rate: float) -> int:
    """The least number of calibration samples that supports a false-alarm rate: ceil(1 / rate) - 1.

    Example:
        >>> samples_needed(0.05), samples_needed(0.001)
        (19, 999)
    """
    return math.ceil(1 / _exact(rate)) - 1


def check_enough(n: int, rate: float) -> None:
    """Refuse too few calibration samples for a false-alarm rate, before there are scores.

    Args:
        n: Number of calibration samples.
        rate: Allowed false-alarm rate.

    Raises:
        CalibrationError: Fewer than `samples_needed(rate)`; it carries this number.
    """
    _alarms(n, rate)


def realised_rate_interval(n: int, rate: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """Where the realised false-alarm rate of one threshold lies.

    For continuous scores it is distributed as Beta(l, n + 1 - l), l = floor((n + 1) rate); ties lower it.

    The mean is at most `rate`, but a threshold from few samples can be off: 99 samples and a rate of 0.05
    give about [0.017, 0.100].

    Args:
        n: Number of calibration samples.
        rate: Allowed false-alarm rate.
        confidence: Probability of the central interval.

    Returns:
        Lower and upper end.

    Reference:
        Vovk, "Conditional validity of inductive conformal predictors", 2012, arXiv:1209.2673, Proposition 2.
    """
    alarms, tail = _alarms(n, rate), (1 - confidence) / 2
    return _beta_quantile(tail, alarms, n), _beta_quantile(1 - tail, alarms, n)


def _checked(scores: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or values.size == 0:
        raise CalibrationError(f"calibration needs scores of shape [n], n >= 1; got shape {list(values.shape)}")
    if not np.isfinite(values).all():
        raise CalibrationError(
            f"calibration needs finite scores: {(~np.isfinite(values)).sum()} of {values.size} are NaN or "
            "infinite; look for inputs that overflow the network"
        )
    return values


def _exact(rate: float) -> Fraction:
    """The decimal number the user wrote: 0.1 is one tenth, so no sample is lost to binary rounding."""
    if not 0 < rate < 1:
        raise CalibrationError(f"the false-alarm rate must lie between 0 and 1; got {rate}")
    return Fraction(str(rate))


def _alarms(n: int, rate: float) -> int:
    """How many of n + 1 exchangeable samples may exceed the threshold: floor((n + 1) rate)."""
    if (alarms := math.floor((n + 1) * _exact(rate))) < 1:
        needed = samples_needed(rate)
        raise CalibrationError(
            f"a false-alarm rate of {rate} needs at least {needed} calibration samples; got {n}: "
            f"give more, or allow a rate of at least {math.ceil(1e4 / (n + 1)) / 1e4}",
            needed=needed,
        )
    return alarms


def _beta_quantile(probability: float, successes: int, n: int) -> float:
    """Quantile of Beta(l, n + 1 - l): bisection of its CDF, P(at least l successes in n trials of chance x).

    All terms of that sum are positive and taken from their logarithms, so it is accurate for any n.
    """
    j = np.arange(1, n + 1)
    log_choose = np.cumsum(np.log(n + 1 - j) - np.log(j))[successes - 1 :]
    j = j[successes - 1 :]
    low, high = 0.0, 1.0
    for _ in range(60):
        x = (low + high) / 2
        tail = np.exp(log_choose + j * math.log(x) + (n - j) * math.log1p(-x)).sum()
        low, high = (x, high) if tail < probability else (low, x)
    return (low + high) / 2
