"""One set without splits, divided into three disjoint ones: to train on, to calibrate on, to test on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.data.dataset import Dataset, stratified_order
from sparsense.errors import InputError

SPLITS = ("all", "train", "calibration", "test")
SHARES = (0.6, 0.2, 0.2)

_SEED = 0  # fixed, so that a calibration set and a test set asked for separately never overlap


def take_split(dataset: Dataset, split: str, shares: Sequence[float] = SHARES) -> Dataset:
    """One of `SPLITS`: stratified by label where there are labels, always the same, in the original order.

    Args:
        dataset: All samples.
        split: `all` gives the dataset itself.
        shares: Of train, calibration and test; non-negative, at most 1 together.
    """
    labels = np.zeros(len(dataset), np.int64) if dataset.labels is None else dataset.labels
    part = dataset.subset(split_indices(labels, split, shares))
    return replace(part, name=f"{dataset.name}/{split}")


def split_indices(labels: NDArray[np.int64], split: str, shares: Sequence[float]) -> NDArray[np.int64]:
    """The ascending indices of the samples of a split; for samples without labels give equal ones."""
    if split == "all":
        return np.arange(len(labels))
    if len(shares) != 3 or min(shares) < 0 or sum(shares) > 1 + 1e-9:
        raise InputError(
            f"expected three shares (train, calibration, test), none negative, at most 1 together; got {tuple(shares)}"
        )
    edges = [0, *np.rint(np.cumsum(shares) * len(labels)).astype(int)]
    part = SPLITS.index(split) - 1
    chosen = np.sort(stratified_order(labels, _SEED)[edges[part] : edges[part + 1]])
    if not len(chosen):
        raise InputError(f"the split {split!r} is empty: shares {tuple(shares)} of {len(labels)} samples")
    return chosen


def last_windows(spans: NDArray[np.int64], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the last windows, a share of all, after those of the windows that share no time step with them.

    Example:
        >>> last_windows(np.array([[0, 4], [2, 6], [4, 8], [6, 10]]), 0.25)
        (array([0, 1]), array([3]))
    """
    order = np.argsort(spans[:, 0], kind="stable")
    unseen = np.sort(order[-max(1, round(share * len(order))) :])
    seen = np.flatnonzero(spans[:, 1] <= spans[unseen, 0].min())
    if not len(seen):
        raise InputError(
            f"holding out {len(unseen)} of {len(order)} windows of a series: none of the others lies wholly before "
            "them; expected more windows, shorter ones, or a smaller share"
        )
    return seen, unseen


def first_of_equals(inputs: NDArray[Any]) -> NDArray[np.int64]:
    """The ascending indices of the rows that no earlier row equals; NaN equals NaN here.

    Example:
        >>> first_of_equals(np.array([[1, np.nan], [3, 4], [1, np.nan]]))
        array([0, 1])
    """
    rows = inputs.reshape(len(inputs), -1)
    _, first = np.unique(_bits(rows) if rows.dtype.kind == "f" else rows, axis=0, return_index=True)
    return np.sort(first)


def _bits(rows: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers that are the same where the floats are; -0 is 0, and NaN is one number."""
    plain = np.where(np.isnan(rows), rows.dtype.type(np.nan), rows + rows.dtype.type(0))
    return np.ascontiguousarray(plain).view(f"u{rows.dtype.itemsize}")
