"""Statistics of observations class by class, in one pass over the batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.errors import CalibrationError, InputError

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class ClassMoments:
    """What is left of labelled observations.

    Attributes:
        classes: Labels that occur, ascending, [K].
        counts: Observations of each, [K].
        means: Mean of each, [K, D].
        mean: Mean of all observations, [D].
        within: Covariance about the class means, pooled, [D, D].
        total: Covariance about the mean of all, [D, D].
    """

    classes: NDArray[np.int64]
    counts: NDArray[np.int64]
    means: Matrix
    mean: Matrix
    within: Matrix
    total: Matrix

    @classmethod
    def fit(cls, batches: Iterable[NDArray[Any]], labels: NDArray[Any] | None) -> ClassMoments:
        """Sums are taken in float64 about the first batch's mean, where they cancel least.

        Args:
            batches: `[n, D]` each.
            labels: Whole numbers, one for each observation in the order of the batches.

        Raises:
            InputError: Observations that are not finite, or another number of labels.
            CalibrationError: Fewer than 2 observations.
        """
        return cls.of(labelled(batches, labels))

    @classmethod
    def of(cls, batches: Iterable[tuple[NDArray[Any], NDArray[Any]]], *, least: int = 1) -> ClassMoments:
        """The same from batches that come with their labels: `[n, D]` and `[n]`.

        Classes with fewer than `least` observations are taken for one, of label -1.
        """
        origin: Any = None
        square: Any = 0.0
        sums: dict[int, Matrix] = {}
        counts: dict[int, int] = {}
        for batch, classes in batches:
            rows = finite(batch)
            origin = rows.mean(0) if origin is None else origin
            rows = rows - origin
            square = square + rows.T @ rows
            for label in np.unique(classes):
                chosen = rows[classes == label]
                sums[label] = sums.get(label, np.zeros(len(origin))) + chosen.sum(0)
                counts[label] = counts.get(label, 0) + len(chosen)
        for label in [label for label, count in counts.items() if count < least]:
            sums[-1] = sums.get(-1, 0.0) + sums.pop(label)
            counts[-1] = counts.get(-1, 0) + counts.pop(label)
        return cls._of_sums(origin, square, sums, counts)

    @classmethod
    def _of_sums(cls, origin: Any, square: Any, sums: dict[int, Matrix], counts: dict[int, int]) -> ClassMoments:
        count = sum(counts.values())
        if count < 2:
            raise CalibrationError(
                f"fitting class statistics: expected at least 2 observations, found {count}", needed=2
            )
        classes = np.array(sorted(counts), np.int64)
        numbers = np.array([counts[label] for label in classes], np.int64)
        means = np.stack([sums[label] / counts[label] for label in classes])
        mean = numbers @ means / count
        within = (square - (means.T * numbers) @ means) / max(count - len(classes), 1)
        total = (square - count * np.outer(mean, mean)) / (count - 1)
        return cls(classes, numbers, origin + means, origin + mean, within, total)


def labelled(
    batches: Iterable[NDArray[Any]], labels: NDArray[Any] | None
) -> Iterator[tuple[Matrix, NDArray[np.int64]]]:
    """Batches in float64 with their part of the labels; refuses what does not fit together."""
    if labels is None:
        raise InputError(
            "fitting class statistics: expected labels, found none; give labels, or choose a head without classes"
        )
    start = 0
    for batch in batches:
        rows = finite(batch)
        own = np.asarray(labels[start : start + len(rows)], np.int64)
        start += len(rows)
        if len(own) == len(rows):  # else too few, which the end of the batches tells
            yield rows, own
    if start != len(labels):
        raise InputError(
            f"fitting class statistics: expected a label for each of {start} observations, found {len(labels)}"
        )


def finite(batch: NDArray[Any]) -> Matrix:
    """A batch in float64; InputError when it holds NaN or infinity."""
    rows = np.asarray(batch, np.float64)
    good = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
    if not good.all():
        raise InputError(
            f"fitting a head: expected finite observations, found {len(rows) - good.sum()} of {len(rows)} rows with "
            "NaN or infinity; check the inputs"
        )
    return rows


def correct_means(
    batches: Iterable[NDArray[Any]],
    labels: NDArray[Any] | None,
    classify: Callable[[Matrix], NDArray[Any]],
    head: str,
) -> Matrix:
    """Mean of the correctly classified observations of every class, [K, D].

    Args:
        batches: `[n, D]` each.
        labels: As in `ClassMoments.fit`.
        classify: Observations -> logits [n, K].
        head: Who asks, for the error.

    Raises:
        CalibrationError: A class without a correctly classified observation.
    """
    sums: Any = 0.0
    counts: Any = 0
    for rows, truth in labelled(batches, labels):
        logits = classify(rows)
        classes = np.arange(logits.shape[1])
        correct = (logits.argmax(1) == truth)[:, None] & (truth[:, None] == classes)
        sums, counts = sums + correct.T.astype(np.float64) @ rows, counts + correct.sum(0)
    if not np.all(counts):
        raise CalibrationError(
            f"fitting head {head!r}: expected correctly classified inputs of every class, found none of class "
            f"{int(np.argmin(counts))}; give more, or check the labels",
            needed=1,
        )
    return np.asarray(sums / counts[:, None])
