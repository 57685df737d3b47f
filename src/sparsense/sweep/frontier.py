"""Which candidates nobody beats: the Pareto front, and the cheapest one that is as good as dense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsense.errors import InputError
from sparsense.sweep.candidates import Candidate
from sparsense.sweep.entries import Entry

Cost = Literal["bytes", "time", "multiply_adds"]
COSTS: tuple[Cost, ...] = ("bytes", "time", "multiply_adds")
QUALITIES = ("accuracy", "auroc")
"""What a recommended detector must keep."""
FRONTS = (*QUALITIES, "robust_accuracy", "defended")
"""What fronts are drawn of, where it was measured."""


def pareto(costs: ArrayLike) -> NDArray[np.bool_]:
    """Rows that no other row dominates: none is as low in every column and lower in one.

    Args:
        costs: `[N, D]`, lower is better in every column; negate what should be high.

    Returns:
        `[N]`, True on the front. Equal rows are on it together.

    Raises:
        InputError: NaN, or not two axes.

    Example:
        >>> pareto([[1, 5], [2, 2], [3, 3], [2, 2]]).tolist()
        [True, True, False, True]
    """
    values = np.asarray(costs, np.float64)
    if values.ndim != 2 or np.isnan(values).any():
        raise InputError(f"a Pareto front needs numbers [N, D]; got shape {values.shape}, or NaN among them")
    front = np.ones(len(values), bool)
    for row in values:  # one row against all: N^2 comparisons, N bytes
        front &= ~((row <= values).all(1) & (row < values).any(1))
    return front


def front(entries: Sequence[Entry], *, quality: str, cost: str) -> list[Entry]:
    """Entries that nobody beats in quality (high) and cost (low), the cheapest first; those without a number drop."""
    known = [(entry, _number(entry.candidate, quality), _number(entry.candidate, cost)) for entry in entries]
    points = [(entry, high, low) for entry, high, low in known if high is not None and low is not None]
    if not points:
        return []
    kept = pareto([(low, -high) for _, high, low in points])
    chosen = [point for point, keep in zip(points, kept, strict=True) if keep]
    return [entry for entry, _, _ in sorted(chosen, key=lambda point: point[2])]


class Recommendation(NamedTuple):
    """The cheapest detector that is within the margin, and what it is held against."""

    cost: Cost
    entry: Entry
    dense: Candidate
    margin: float


def reference(entries: Sequence[Entry]) -> Candidate | None:
    """The best dense detector, by AUROC; where there are no anomalies, by accuracy."""
    dense = [entry.candidate for entry in entries if entry.candidate.variant == "dense"]
    return max(dense, key=lambda c: (c.auroc or 0.0, c.accuracy or 0.0, -c.bytes), default=None)


def recommend(entries: Sequence[Entry], cost: Cost, *, margin: float = 0.005) -> Recommendation | None:
    """The cheapest pruned detector whose accuracy and AUROC are at most `margin` below those of the best dense one.

    Args:
        entries: Detectors of a sweep.
        cost: What should be small.
        margin: As a share; 0.005 are half a point.

    Returns:
        None when no detector is within the margin, or nothing dense was measured.
    """
    dense = reference(entries)
    if dense is None:
        return None
    fit = [
        entry for entry in entries if entry.candidate.variant == "pruned" and _within(entry.candidate, dense, margin)
    ]
    if cost == "time" and any(entry.candidate.together for entry in fit):
        fit = [entry for entry in fit if entry.candidate.together]  # times of different hours are not compared
    priced = [(price, entry) for entry in fit if (price := _number(entry.candidate, cost)) is not None]
    if not priced:
        return None
    _, best = min(priced, key=lambda pair: (pair[0], -(pair[1].candidate.auroc or 0.0)))
    return Recommendation(cost, best, dense, margin)


def _within(candidate: Candidate, dense: Candidate, margin: float) -> bool:
    """Not worse than the margin in anything that both have a number for; an autoencoder has no accuracy."""
    pairs = [(_number(candidate, name), _number(dense, name)) for name in QUALITIES]
    both = [(mine, theirs) for mine, theirs in pairs if mine is not None and theirs is not None]
    return bool(both) and all(mine >= theirs - margin - 1e-12 for mine, theirs in both)


def _number(candidate: Candidate, name: str) -> float | None:
    value = getattr(candidate, name)
    return None if value is None else float(value)
