"""A threshold for every predicted class: class-conditional (Mondrian) split-conformal calibration.

One threshold for all classes keeps the false-alarm rate on average: an easy class may have almost none, a hard one
several times the rate. With a threshold of its own every class keeps the rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsense.calibrate import Calibration, calibrate, p_values, samples_needed
from sparsense.errors import CalibrationError

PerClass = Literal["no", "strict", "pool"]
"""One threshold for all; one per class; one per class that has enough samples."""


@dataclass(frozen=True)
class ClassCalibration(Calibration):
    """A threshold per predicted class; the fields inherited are those of all classes pooled.

    Args:
        classes: The calibration of each class, `[K]`; that of all samples where a class had too few.
        pooled: Which classes those are, `[K]`.
    """

    classes: tuple[Calibration, ...]
    pooled: tuple[bool, ...]

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """One per class, `[K]`."""
        return np.array([found.threshold for found in self.classes])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, for the card."""
        rows = [
            {"label": label, "threshold": own.threshold, "n": own.n, "interval": own.interval, "pooled": pooled}
            for label, (own, pooled) in enumerate(zip(self.classes, self.pooled, strict=True))
        ]
        whole = {"rate": self.rate, "threshold": self.threshold, "n": self.n, "interval": self.interval}
        return {**whole, "classes": rows}


def calibrate_by_class(
    scores: ArrayLike, predicted: ArrayLike, rate: float, *, classes: int, pool: bool = False
) -> ClassCalibration:
    """A threshold for each predicted class, so that each class keeps the false-alarm rate.

    P(score > threshold_c | predicted class c) <= rate for every class c with enough samples.

    Args:
        scores: `[n]` scores of held-out in-distribution inputs.
        predicted: `[n]` classes that the network predicts for them, 0 to `classes` - 1.
        rate: Allowed false-alarm rate, 0 < rate < 1.
        classes: K, how many classes there are.
        pool: A class with fewer than `samples_needed(rate)` samples takes the threshold of all samples, which promises
            nothing for this class alone; False refuses it.

    Raises:
        CalibrationError: Too few samples in a class, or in all; predictions that do not fit.

    Reference:
        Vovk, "Conditional validity of inductive conformal predictors", 2012, arXiv:1209.2673, section 3.

    Example:
        >>> calibrate_by_class(range(40), [0, 1] * 20, 0.05, classes=2).thresholds.tolist()
        [38.0, 39.0]
    """
    values, labels = np.asarray(scores, np.float64), _checked(predicted, np.size(scores), classes)
    whole, needed = calibrate(values, rate), samples_needed(rate)
    counts = np.bincount(labels, minlength=classes)
    if not pool and (short := np.flatnonzero(counts < needed)).size:
        raise CalibrationError(_too_few(counts, short, rate, needed), needed=needed)
    own = tuple(calibrate(values[labels == c], rate) if counts[c] >= needed else whole for c in range(classes))
    pooled = tuple(bool(count < needed) for count in counts)
    return ClassCalibration(whole.rate, whole.threshold, whole.n, whole.interval, own, pooled)


def class_p_values(
    found: ClassCalibration, calibration: tuple[ArrayLike, ArrayLike], scores: ArrayLike, predicted: ArrayLike
) -> NDArray[np.float64]:
    """How rarely an in-distribution input of the same predicted class scores at least as high.

    Args:
        found: Says which classes are judged by all samples.
        calibration: Scores `[n]` and predicted classes `[n]` that it was made from.
        scores: `[N]`, not NaN.
        predicted: `[N]`.

    Returns:
        `[N]`, in [1 / (n_c + 1), 1]; lower = more anomalous.
    """
    held_out, labels = np.asarray(calibration[0], np.float64), np.asarray(calibration[1])
    asked, of = np.asarray(scores, np.float64), np.asarray(predicted)
    result = np.empty(len(asked))
    for label in np.unique(of):
        own = held_out if found.pooled[label] else held_out[labels == label]
        result[of == label] = p_values(own, asked[of == label])
    return result


def need_classes(task: str, per_class: PerClass, *, doing: str) -> None:
    """Refuse thresholds per class for a network that predicts none: the largest number of a row is no class.

    Raises:
        CalibrationError: It is no classifier.
    """
    if per_class != "no" and task != "classifier":
        raise CalibrationError(
            f"{doing} class by class: expected a classifier, found a network for {task}, which predicts no classes; "
            "calibrate all inputs together"
        )


def _checked(predicted: ArrayLike, count: int, classes: int) -> NDArray[np.int64]:
    labels = np.asarray(predicted)
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or not ((labels >= 0) & (labels < classes)).all():
        raise CalibrationError(
            f"calibrating class by class: expected {count} predicted classes from 0 to {classes - 1}, one for each "
            f"score; found {labels.dtype} {list(labels.shape)}"
            + (f" from {labels.min()} to {labels.max()}" if labels.size else "")
        )
    return labels.astype(np.int64)


def _too_few(counts: NDArray[np.int64], short: NDArray[np.int64], rate: float, needed: int) -> str:
    others = f" (and {len(short) - 1} more classes have too few)" if len(short) > 1 else ""
    return (
        f"calibrating class by class: a false-alarm rate of {rate} needs at least {needed} samples of each predicted "
        f"class; class {short[0]} has {counts[short[0]]}{others}: give more, allow a higher rate, or let such classes "
        "share the threshold of all samples (per class: pool)"
    )
