"""Differences of two shares with intervals: on the same inputs, and on independent ones."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from sparsense.benchmark.uncertainty import Estimate, wilson_interval
from sparsense.errors import InputError


def paired_difference(first: ArrayLike, second: ArrayLike, *, level: float = 0.95) -> Estimate:
    """The share of `second` minus that of `first`, of the same inputs.

    With b inputs that only `second` has and c that only `first` has, of n: d = (b - c) / n. The interval is Wald's
    with half an input added to each of the four cells, which keeps its level for few inputs and for rare events.

    Args:
        first: `[N]`, one truth value per input.
        second: The same inputs in the same order.
        level: Of the interval.

    Returns:
        Between -1 and 1; above 0 where `second` has more.

    Raises:
        InputError: The numbers of inputs differ, or there are none.

    Reference:
        A. Agresti, Y. Min, "Simple improved confidence intervals for comparing matched proportions", 2005.

    Example:
        >>> paired_difference([True, False, False, False], [True, True, True, False]).value
        0.5
    """
    before, after = np.asarray(first, bool), np.asarray(second, bool)
    if before.shape != after.shape or before.size == 0:
        raise InputError(f"expected the same inputs, at least one; found {before.size} and {after.size} verdicts")
    gained, lost, n = float((after & ~before).sum()), float((before & ~after).sum()), before.size
    b, c, m = gained + 0.5, lost + 0.5, n + 2
    centre = (b - c) / m
    spread = _z(level) * math.sqrt(max(b + c - (b - c) ** 2 / m, 0.0)) / m
    return Estimate((gained - lost) / n, max(centre - spread, -1.0), min(centre + spread, 1.0))


def independent_difference(first: tuple[int, int], second: tuple[int, int], *, level: float = 0.95) -> Estimate:
    """The share of `second` minus that of `first`, as if their inputs had nothing in common.

    On inputs that are the same it is wider than it need be. The interval joins Wilson's intervals of both shares.

    Args:
        first: Successes, and of how many.
        second: The same.
        level: Of the interval.

    Reference:
        R. Newcombe, "Interval estimation for the difference between independent proportions", 1998, method 10.
    """
    (low_1, high_1), (low_2, high_2) = (wilson_interval(*one, level=level) for one in (first, second))
    p_1, p_2 = first[0] / first[1], second[0] / second[1]
    down, up = math.hypot(p_2 - low_2, high_1 - p_1), math.hypot(high_2 - p_2, p_1 - low_1)
    return Estimate(p_2 - p_1, p_2 - p_1 - down, p_2 - p_1 + up)


def _z(level: float) -> float:
    return NormalDist().inv_cdf(0.5 + level / 2)
