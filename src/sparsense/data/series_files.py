"""Your own series: .csv and .parquet files with a row per time step, cut into windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsense.data.columns import Column, fit_numbers, numbers
from sparsense.data.dataset import Dataset
from sparsense.data.sources import source
from sparsense.data.splits import SHARES, SPLITS
from sparsense.data.table_files import read_labelled
from sparsense.data.timeseries import windows
from sparsense.errors import InputError

Steps = Mapping[str, NDArray[np.float64]]
"""Name -> the numbers of a column, one per time step."""


@source("series", *SPLITS)
def series(
    split: str,
    *,
    path: str,
    label: str | None = None,
    drop: Sequence[str] = (),
    length: int = 64,
    step: int = 8,
    shares: Sequence[float] = SHARES,
    like: str | None = None,
) -> Dataset:
    """A .csv or .parquet file, a row per time step, in windows of all its columns: float32 `[N, length * columns]`.

    Windows are cut within a split, so none touches two, and hold the file's own numbers, step by step. `columns` of the
    data set says what the network makes of them: numbers scaled to mean 0 and standard deviation 1, column by column.
    That is fitted on the steps of `train` with label 0 (all of them without a label), is the same for every split, and
    becomes part of the preprocessing, as for `table`.

    Args:
        split: `all`, or in time: `train` first, then `calibration`, then `test`.
        path: The file; a .csv file has a header.
        label: A column of whole numbers, not 0 where a step is anomalous; a window is (1) if one of its steps is.
        drop: Columns that are left out, such as the time.
        length: Time steps of a window.
        step: Time steps between the beginnings of two windows.
        shares: Of train, calibration and test.
        like: Another file with the same columns, whose training steps teach the scaling instead. Then `path` needs
            no column of `label` or `drop`: without labels its windows have none.

    Raises:
        InputError: As for `table`; words, or missing values.
        MissingExtraError: scikit-learn is not installed, or pyarrow for .parquet.
    """
    steps, labels = _read(path, label, drop, complete=like is None)
    columns = _fitted(*((steps, labels) if like is None else _read(like, label, drop)), shares)
    for column in columns:
        if column.name not in steps:
            raise InputError(f"reading {path}: it has no column {column.name!r}, as {like} has")
    marks = _as_marks(steps, labels)
    chosen = _part(len(marks), split, shares)
    values = np.stack([steps[column.name][chosen] for column in columns], axis=1)
    cut = windows(f"{Path(path).stem}/{split}", values, marks[chosen], length, step)
    if label is not None and labels is None:
        cut = replace(cut, labels=None, class_names=())
    return replace(cut, columns=tuple(replace(c, name=f"{c.name}[{at}]") for at in range(length) for c in columns))


def _read(
    path: str, label: str | None, drop: Sequence[str], *, complete: bool = True
) -> tuple[Steps, NDArray[np.int64] | None]:
    """The columns of a file, and its labels, if it has any."""
    columns, labels = read_labelled(path, label, None, drop, complete=complete)
    return {name: _complete(name, values) for name, values in columns.items()}, labels


def _as_marks(steps: Steps, labels: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """A label per step; 0 everywhere where there are none."""
    return np.zeros(len(next(iter(steps.values()))), np.int64) if labels is None else labels


def _fitted(steps: Steps, labels: NDArray[np.int64] | None, shares: Sequence[float]) -> list[Column]:
    """How each column is scaled, by its normal training steps."""
    marks = _as_marks(steps, labels)
    known = np.arange(len(marks))[_part(len(marks), "train", shares)]
    known = known[marks[known] == 0]
    if not len(known):
        raise InputError("scaling a series: no step of the training split has the label 0, which means normal")
    return [fit_numbers(name, values[known]) for name, values in steps.items()]


def _part(count: int, split: str, shares: Sequence[float]) -> slice:
    edges = [0, *np.rint(np.cumsum(shares) * count).astype(int)]
    if len(edges) != 4 or sorted(edges) != edges or edges[-1] > count:
        raise InputError(f"expected three shares, none negative, at most 1 together; got {tuple(shares)}")
    part = SPLITS.index(split) - 1
    return slice(None) if split == "all" else slice(edges[part], edges[part + 1])


def _complete(name: str, values: Sequence[str | None]) -> NDArray[np.float64]:
    found = numbers(values, f"column {name!r}")
    if np.isnan(found).any():
        row = int(np.flatnonzero(np.isnan(found))[0]) + 1
        raise InputError(f"column {name!r}, row {row}: a series has no gaps here; fill it, or drop the column")
    return found
