"""How well scores separate anomalies from in-distribution inputs: AUROC, AUPR, FPR at a TPR, rates at a threshold.

A score is higher for what is more anomalous, everywhere in sparsense. Every metric is computed from a `Tally`, the
numbers of scores at each distinct value, so ties are treated exactly and the bootstrap is the same code with one
axis more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsense.errors import InputError

Array = NDArray[np.float64]
Positive = Literal["in_distribution", "anomalous"]
Ranks = Sequence[NDArray[np.int64]]


@dataclass(frozen=True)
class Tally:
    """How many scores lie at each of U distinct values, in ascending order of value.

    Args:
        in_distribution: `[..., U]`; leading axes, if any, are resamples.
        anomalous: `[..., U]`.
    """

    in_distribution: NDArray[Any]
    anomalous: NDArray[Any]

    def reversed(self) -> Tally:
        """The tally of the negated scores."""
        return Tally(self.in_distribution[..., ::-1], self.anomalous[..., ::-1])

    def swapped(self) -> Tally:
        """The two sets exchanged."""
        return Tally(self.anomalous, self.in_distribution)


def auroc(in_distribution: ArrayLike, anomalous: ArrayLike) -> float:
    """Area under the ROC curve: the chance that an anomaly scores above an in-distribution input.

    AUROC = P(a > i) + P(a = i) / 2. It is the same whichever set is called positive.

    Args:
        in_distribution: Scores `[N]`, higher = more anomalous.
        anomalous: Scores `[M]`.

    Returns:
        0 to 1; 1/2 is chance, higher is better.

    Raises:
        InputError: No scores, or NaN among them.

    Example:
        >>> auroc([0, 1, 2], [2, 3])
        0.9166666666666666
    """
    return float(tally_auroc(tally(in_distribution, anomalous)))


def aupr(in_distribution: ArrayLike, anomalous: ArrayLike, *, positive: Positive = "anomalous") -> float:
    """Area under the precision-recall curve, as average precision: sum over thresholds of precision x gain in recall.

    Unlike AUROC it depends on how many of each set there are, and on which is positive: quote both.

    Args:
        in_distribution: Scores `[N]`, higher = more anomalous.
        anomalous: Scores `[M]`.
        positive: `anomalous` (AUPR-out) or `in_distribution` (AUPR-in).

    Returns:
        0 to 1, higher is better; chance is the share of positives.
    """
    return float(tally_aupr(tally(in_distribution, anomalous), positive=positive))


def fpr_at_tpr(
    in_distribution: ArrayLike, anomalous: ArrayLike, *, tpr: float = 0.95, positive: Positive = "in_distribution"
) -> float:
    """The false-positive rate at the strictest threshold that keeps a true-positive rate of `tpr`.

    Two conventions go by this name. They differ, so this one takes a side in the open:

    - `in_distribution`: the share of *anomalies accepted* when 95 % of in-distribution inputs are accepted.
      That is FPR95 in the out-of-distribution literature (Hendrycks & Gimpel 2017 and after), and the side
      that a user controls: a threshold is set on in-distribution inputs, anomalies are not known beforehand.
      Hence the default.
    - `anomalous`: the share of *in-distribution inputs rejected* when 95 % of anomalies are caught.

    Args:
        in_distribution: Scores `[N]`, higher = more anomalous.
        anomalous: Scores `[M]`.
        tpr: Share of the positive set that is kept, above 0 and at most 1.
        positive: Which set is kept.

    Returns:
        0 to 1, lower is better.
    """
    return float(tally_fpr(tally(in_distribution, anomalous), tpr=tpr, positive=positive))


def fpr95(in_distribution: ArrayLike, anomalous: ArrayLike) -> float:
    """The share of anomalies that pass when 95 % of in-distribution inputs pass; see `fpr_at_tpr`."""
    return fpr_at_tpr(in_distribution, anomalous)


def flagged(values: ArrayLike, threshold: float) -> float:
    """The share of scores above a threshold, as the detector decides (`score > threshold`).

    Of in-distribution inputs it is the realised false-alarm rate, of anomalies the detection rate.
    """
    return float((scores(values, "scores") > threshold).mean())


def detection_accuracy(in_distribution: ArrayLike, anomalous: ArrayLike, threshold: float) -> float:
    """Balanced accuracy at a threshold: the mean of detection rate and (1 - false-alarm rate)."""
    return (flagged(anomalous, threshold) + 1 - flagged(in_distribution, threshold)) / 2


def roc_curve(in_distribution: ArrayLike, anomalous: ArrayLike) -> tuple[Array, Array]:
    """False-alarm rate and detection rate at every distinct threshold, both rising from 0 to 1."""
    counts = tally(in_distribution, anomalous).reversed()
    alarms, detections = (_shares(counts.in_distribution), _shares(counts.anomalous))
    return np.concatenate([[0.0], alarms]), np.concatenate([[0.0], detections])


def scores(values: ArrayLike, name: str) -> Array:
    """Scores as float64 `[N]`, or an error that says what is wrong with them."""
    array = np.asarray(values, np.float64).ravel()
    if not array.size:
        raise InputError(f"no {name}: expected at least one")
    if np.isnan(array).any():
        raise InputError(f"{name}: expected numbers; found NaN at index {int(np.flatnonzero(np.isnan(array))[0])}")
    return array


def both_scores(in_distribution: ArrayLike, anomalous: ArrayLike) -> tuple[Array, Array]:
    """`scores` of both sets."""
    return scores(in_distribution, "in-distribution scores"), scores(anomalous, "anomalous scores")


def rank_scores(in_distribution: ArrayLike, anomalous: ArrayLike) -> tuple[Ranks, int]:
    """The rank of each score among the distinct values of both sets together, and how many values there are."""
    first, second = both_scores(in_distribution, anomalous)
    values, ranks = np.unique(np.concatenate([first, second]), return_inverse=True)
    return (ranks[: len(first)], ranks[len(first) :]), len(values)


def count_ranks(ranks: Ranks, values: int) -> Tally:
    """The tally of ranks `[..., N]` and `[..., M]`, row by row."""
    return Tally(*(_count(part, values) for part in ranks))


def _count(ranks: NDArray[np.int64], values: int) -> NDArray[np.int64]:
    rows = ranks.reshape(-1, ranks.shape[-1])
    cells = rows + values * np.arange(len(rows))[:, None]
    return np.bincount(cells.ravel(), minlength=values * len(rows)).reshape(*ranks.shape[:-1], values)


def tally(in_distribution: ArrayLike, anomalous: ArrayLike) -> Tally:
    """Count both sets of scores at each distinct value."""
    return count_ranks(*rank_scores(in_distribution, anomalous))


def tally_auroc(counts: Tally) -> Array:
    """AUROC `[...]` of a tally."""
    below = np.cumsum(counts.in_distribution, axis=-1) - counts.in_distribution / 2  # half of the ties
    pairs = counts.in_distribution.sum(axis=-1) * counts.anomalous.sum(axis=-1)
    return np.asarray((counts.anomalous * below).sum(axis=-1) / pairs)


def tally_aupr(counts: Tally, *, positive: Positive) -> Array:
    """Average precision `[...]` of a tally."""
    kept = counts.reversed() if positive == "anomalous" else counts.swapped()
    hits = np.cumsum(kept.anomalous, axis=-1)
    precision = hits / np.maximum(hits + np.cumsum(kept.in_distribution, axis=-1), 1)
    return np.asarray((precision * kept.anomalous).sum(axis=-1) / hits[..., -1])


def tally_fpr(counts: Tally, *, tpr: float = 0.95, positive: Positive = "in_distribution") -> Array:
    """FPR at TPR `[...]` of a tally."""
    if not 0 < tpr <= 1:
        raise InputError(f"expected a true-positive rate above 0 and at most 1; got {tpr}")
    if positive not in ("in_distribution", "anomalous"):
        raise InputError(f"expected positive='in_distribution' or 'anomalous'; got {positive!r}")
    kept = counts if positive == "in_distribution" else counts.reversed().swapped()
    enough = _shares(kept.in_distribution) >= tpr - 1e-12
    first = enough.argmax(axis=-1)
    return np.take_along_axis(_shares(kept.anomalous), first[..., None], axis=-1)[..., 0]


METRICS: Mapping[str, Callable[[Tally], Array]] = {
    "auroc": tally_auroc,
    "fpr95": tally_fpr,
    "fpr95_anomalous": partial(tally_fpr, positive="anomalous"),
    "aupr_out": partial(tally_aupr, positive="anomalous"),
    "aupr_in": partial(tally_aupr, positive="in_distribution"),
}
"""What intervals can be computed of, by name."""


def _shares(counts: NDArray[Any]) -> Array:
    """The share of a set at or below each value."""
    cumulative = np.cumsum(counts, axis=-1)
    return np.asarray(cumulative / cumulative[..., -1:])
