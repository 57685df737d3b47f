"""Have the inputs changed since calibration? A test on the p-values that a detector gives."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsense.errors import CalibrationError


def drift_test(
    p: ArrayLike,
    n: int,
    *,
    alternative: Literal["anomalous", "any"] = "anomalous",
    calibration: ArrayLike | None = None,
) -> tuple[float, float]:
    """Kolmogorov-Smirnov test of p-values against the uniform distribution on {1, ..., n + 1} / (n + 1).

    D = max over that grid of F(u) - u ("anomalous") or of |F(u) - u| ("any")

    The sample size is n m / (n + m): n calibration samples know the distribution of the scores only so well.
    Tied scores make p-values too large, never too small, so "anomalous" stays valid; "any" would take
    ties for a drift, unless it is given the calibration scores: F is then compared with their own distribution. Where
    each predicted class has its own threshold, p-values are comparable within a class: test the classes one by one,
    each with its own n.

    Args:
        p: `[m]` p-values of new inputs.
        n: Number of calibration samples behind them.
        alternative: "anomalous": the scores have risen. "any": they have changed (for scores without ties).
        calibration: The calibration scores `[n]`; with them "any" is valid for scores with ties, too.

    Returns:
        D in [0, 1], and the probability of at least this D without drift (asymptotic).

    Raises:
        CalibrationError: No p-values, or values that n calibration samples cannot give.
    """
    values = np.asarray(p, np.float64).ravel()
    ranks = np.rint(values * (n + 1))
    if values.size == 0 or not ((ranks >= 1) & (ranks <= n + 1)).all():
        raise CalibrationError(
            f"a drift test needs p-values between 1/{n + 1} and 1, as {n} calibration samples give them; "
            + (f"got {values.min()} to {values.max()}" if values.size else "got none")
        )
    sided: Literal[1, 2] = 1 if alternative == "anomalous" else 2
    usual = np.arange(1, n + 2) / (n + 1)
    if calibration is not None and sided == 2 and len(np.unique(calibration)) < n:
        scores = np.sort(np.asarray(calibration, np.float64))
        usual = _shares(1 + n - np.searchsorted(scores, scores), n)
    gap = _shares(ranks, n) - usual
    largest = float(np.max(gap if sided == 1 else np.abs(gap)))
    return largest, _kolmogorov_tail(math.sqrt(n * values.size / (n + values.size)) * largest, sided=sided)


def _shares(ranks: NDArray[Any], n: int) -> NDArray[np.float64]:
    """The share of ranks at or below 1 .. n + 1."""
    return np.asarray(np.cumsum(np.bincount(ranks.astype(np.int64), minlength=n + 2)[1:]) / len(ranks))


def _kolmogorov_tail(x: float, *, sided: Literal[1, 2]) -> float:
    """P(sup > x) of a Brownian bridge: exp(-2 x^2) on one side, 2 sum (-1)^(k-1) exp(-2 k^2 x^2) on two."""
    if sided == 1:
        return math.exp(-2 * max(x, 0.0) ** 2)
    if x < 0.2:  # the series converges slowly, and 1 - 1e-11 is 1
        return 1.0
    return float(min(1.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 40))))
