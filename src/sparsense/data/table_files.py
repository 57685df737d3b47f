"""Your own tables: .csv and .parquet files with columns of numbers and words."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.data.classes import NORMAL_OR_NOT
from sparsense.data.columns import Columns, Encoding, fit_encoding, numbers, words
from sparsense.data.dataset import Dataset
from sparsense.data.repeats import distinct_rows
from sparsense.data.sources import source
from sparsense.data.splits import SHARES, SPLITS, first_of_equals, split_indices
from sparsense.data.table_rows import check_commas
from sparsense.errors import InputError, UnsafeFileError
from sparsense.extras import need

MAX_BYTES = 2 << 30
MAX_CELLS = 200_000_000


@source("table", *SPLITS)
def table(
    split: str,
    *,
    path: str,
    label: str | None = None,
    normal: str | float | bool | None = None,
    drop: Sequence[str] = (),
    shares: Sequence[float] = SHARES,
    unique: bool = False,
    like: str | None = None,
) -> Dataset:
    """A .csv or .parquet file with words and missing values: its own numbers, float32 `[N, columns]`.

    A gap is NaN, a word its place among those of its column. `columns` of the data set says what the network makes of
    them: numbers scaled to mean 0 and standard deviation 1, medians in gaps, a 1 at each word's place. That is fitted
    on the rows of `train` with label 0 (all of them without a label), is the same for every split, and becomes part of
    the preprocessing, so a detector file takes the table's own numbers.

    Args:
        split: `all`, or `train`, `calibration`, `test`: disjoint, stratified by label and always the same.
        path: The file; a .csv file has a header.
        label: The column of labels.
        normal: Its value for normal rows, which get 0 and all others 1; None: the labels are whole numbers already.
        drop: Columns that are left out, such as identifiers.
        shares: Of train, calibration and test.
        unique: Leave out rows whose inputs repeat those of an earlier one of the file, which could otherwise lie in two
            splits.
        like: Another file with the same columns, whose training rows teach the encoding instead. Then `path` needs
            neither the columns of `label` and `drop` nor a normal row: without labels it has none.

    Raises:
        InputError: No such file or column, broken rows, no samples.
        MissingExtraError: scikit-learn is not installed, or pyarrow for .parquet.
    """
    columns, labels = read_labelled(path, label, normal, drop, complete=like is None)
    taught, marks = (columns, labels) if like is None else read_labelled(like, label, normal, drop)
    known = distinct_rows(taught) if unique else _all_rows(taught)
    encoding = _encoding(taught, _as_classes(taught, marks), known, shares)
    first = first_of_equals(encoding.codes(columns)) if unique else _all_rows(columns)
    # Words that were not seen are the same for a network, so rows may repeat that were distinct before: these go as
    # well, from the splits that the encoding was learnt in.
    rows = _in_split(split, shares, _as_classes(columns, labels), known if like is None else first)
    rows = np.intersect1d(rows, first)
    inputs = encoding.codes(_taken(columns, rows), rows=(rows + 1).tolist())
    name, own = f"{Path(path).stem}/{split}", None if labels is None else labels[rows]
    names = () if normal is None or own is None else NORMAL_OR_NOT
    return Dataset(name, inputs, own, encoding.columns, class_names=names)


def read_labelled(
    path: str,
    label: str | None,
    normal: str | float | bool | None,
    drop: Sequence[str],
    *,
    complete: bool = True,
) -> tuple[Columns, NDArray[np.int64] | None]:
    """The columns of a file without those of `label` and `drop`, and the labels, if it has any.

    Args:
        path: The file.
        label: See `table`.
        normal: See `table`.
        drop: See `table`.
        complete: Whether the columns of `label` and `drop`, and a normal row, must be there.

    Raises:
        InputError: One of them is not; no rows or no columns; a label that is missing or no whole number.
    """
    columns = dict(read_columns(Path(path)))
    absent = [name for name in [*drop, *([] if label is None else [label])] if name not in columns]
    if absent and complete:
        raise InputError(f"reading {path}: it has no column {absent[0]!r}; it has {', '.join(columns)}")
    marks = None if label is None else columns.pop(label, None)
    what = f"{path}, column {label!r}"
    if marks is not None and normal is not None and complete:
        _check_normal(words(marks), str(normal), what)
    labels = None if marks is None else _as_labels(marks, normal, what)
    kept = {name: values for name, values in columns.items() if name not in drop}
    if not kept or not len(next(iter(kept.values()))):
        raise InputError(f"reading {path}: expected at least one row and one column besides the labels, found none")
    return kept, labels


def read_columns(path: Path) -> Columns:
    """Columns of text, by the names of the header.

    Raises:
        InputError: No such file, another kind of file, a row with more or fewer values than the header.
        UnsafeFileError: More than 2 GiB, or than 200 million values.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    if path.stat().st_size > MAX_BYTES:
        raise UnsafeFileError(f"{path} is refused: {path.stat().st_size:,} bytes; the limit is {MAX_BYTES:,}")
    if (suffix := path.suffix.lower()) == ".csv":
        return _read_csv(path)
    if suffix == ".parquet":
        return _read_parquet(path)
    raise InputError(f"reading the table {path}: expected a .csv or .parquet file, found {path.suffix or 'no suffix'}")


def _read_csv(path: Path) -> Columns:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            header, *rows = [row for row in csv.reader(stream) if row]
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise InputError(f"reading the table {path}: expected UTF-8 text with a header; {error}") from error
    check_commas(path, header)
    if len(set(header)) != len(header):
        raise InputError(f"reading the table {path}: two columns have the same name in {header}")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise InputError(f"{path}, row {number + 1}: expected {len(header)} values, found {len(row)}")
    return dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(header, ())


def _read_parquet(path: Path) -> Columns:
    parquet: Any = need("pyarrow.parquet", doing="reading a .parquet file", extra="parquet")
    arrow: Any = need("pyarrow", doing="reading a .parquet file", extra="parquet")
    try:
        size = parquet.read_metadata(path)
        if size.num_rows * size.num_columns > MAX_CELLS:
            raise UnsafeFileError(f"{path} is refused: {size.num_rows:,} rows of {size.num_columns:,} columns")
        frame = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"reading the table {path}: it is damaged, or not in Parquet's format: {error}") from error
    return {
        name: [None if value is None else str(value) for value in frame.column(name).to_pylist()]
        for name in frame.column_names
    }


def _check_normal(found: Sequence[str], normal: str, name: str) -> None:
    if normal not in found:
        raise InputError(f"{name}: no row is {normal!r}; there are {', '.join(sorted(set(found))[:10])}")


def _as_labels(values: Sequence[str | None], normal: str | float | bool | None, name: str) -> NDArray[np.int64]:
    found = words(values)
    if "" in found:
        raise InputError(f"{name}: row {found.index('') + 1} has no label")
    if normal is not None:
        return np.array([value != str(normal) for value in found], np.int64)
    labels = numbers(found, name)
    if (labels != np.rint(labels)).any():
        raise InputError(f"{name}: expected whole numbers as labels; say which value is normal with normal=...")
    return labels.astype(np.int64)


def _as_classes(columns: Columns, labels: NDArray[np.int64] | None) -> NDArray[np.int64]:
    return np.zeros(len(_all_rows(columns)), np.int64) if labels is None else labels


def _all_rows(columns: Columns) -> NDArray[np.int64]:
    return np.arange(len(next(iter(columns.values()))))


def _in_split(
    split: str, shares: Sequence[float], classes: NDArray[np.int64], rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Those of the rows that are in a split of them."""
    return rows[split_indices(classes[rows], split, shares)]


def _encoding(
    columns: Columns, classes: NDArray[np.int64], rows: NDArray[np.int64], shares: Sequence[float]
) -> Encoding:
    known = _in_split("train", shares, classes, rows)
    known = known[classes[known] == 0]
    if not len(known):
        raise InputError("encoding a table: no row of the training split has the label 0, which means normal")
    return fit_encoding(_taken(columns, known), rows=(known + 1).tolist())


def _taken(columns: Columns, rows: NDArray[np.int64]) -> Columns:
    return {name: [values[row] for row in rows] for name, values in columns.items()}
