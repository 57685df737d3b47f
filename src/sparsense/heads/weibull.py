"""A Weibull distribution fitted to the largest of some distances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def fit_tail(distances: Array, tail: int) -> tuple[float, float, float]:
    """Location, scale and shape for the `tail` largest distances.

    The location is set one unit below the smallest distance of the tail, scale and shape maximise the likelihood.

    Args:
        distances: `[n]`, n >= 2, not all of the tail equal.
        tail: How many of the largest count.

    Returns:
        (location, scale, shape) with CDF 1 - exp(-((d - location) / scale)^shape) above the location.
    """
    largest = np.sort(distances)[-tail:]
    location = float(largest[0] - 1)
    logs = np.log(largest - location)
    shape = _shape(logs)
    mean_power = np.mean(np.exp(shape * (logs - logs.max())))
    return location, float(np.exp(logs.max() + np.log(mean_power) / shape)), shape


def _shape(logs: Array) -> float:
    """Root of the likelihood's slope, which rises with the shape: sum x^k log x / sum x^k - 1/k - mean log x = 0."""
    low, high = 1e-3, 1e4
    for _ in range(100):
        middle = np.sqrt(low * high)
        weights = np.exp(middle * (logs - logs.max()))
        slope = (weights @ logs) / weights.sum() - 1 / middle - logs.mean()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float(np.sqrt(low * high))
