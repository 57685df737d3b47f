"""Rows of .csv and .parquet files one piece after the other, from any row on, in bounded memory."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from sparsense.errors import InputError
from sparsense.extras import need

Part = dict[str, Sequence[Any]]
"""Columns by name, all of the same length: text from .csv, Python's own values from .parquet."""
UTF8_MARK = b"\xef\xbb\xbf"


class Mark(NamedTuple):
    """A row of a .csv file, and where in the file it begins."""

    row: int
    byte: int


def csv_marks(path: Path, every: int) -> Iterator[Mark]:
    """Where every so many rows of a .csv file begin; the last mark is behind the last row.

    Raises:
        InputError: No such file, no text, no header.
    """
    with _lines(path) as (stream, lines):
        _header(path, lines)
        row, begin = 0, stream.tell()
        yield Mark(row, begin)
        for cells in csv.reader(lines):
            row += bool(cells)
            if cells and row % every == 0:
                yield Mark(row, stream.tell())
        if row % every:
            yield Mark(row, stream.tell())


def csv_rows(
    path: Path, size: int, *, start: int = 0, stop: int | None = None, byte: int | None = None
) -> Iterator[Part]:
    """Rows `start` to `stop`, at most `size` at a time.

    Args:
        path: The file; its first row is the header.
        size: Rows at a time.
        start: The first row.
        stop: The row after the last one; None: to the end.
        byte: Where the first row begins, as `csv_marks` says; None: rows before it are read and left out.

    Raises:
        InputError: No such file, no text, no header, a row with more or fewer values than the header.
    """
    with _lines(path) as (stream, lines):
        header = _header(path, lines)
        if byte is not None:
            stream.seek(byte)
        rows = (cells for cells in csv.reader(lines) if cells)
        done = start if byte is not None else 0
        taken = islice(rows, start - done, None if stop is None else stop - done)
        done = start
        while part := list(islice(taken, size)):
            _check_widths(path, header, part, done)
            yield dict(zip(header, zip(*part, strict=True), strict=True))
            done += len(part)


def parquet_count(path: Path) -> int:
    """The number of rows; only the end of the file is read."""
    with _parquet(path) as file:
        return int(file.metadata.num_rows)


def parquet_rows(path: Path, size: int, *, start: int = 0, stop: int | None = None) -> Iterator[Part]:
    """Rows `start` to `stop`, at most `size` at a time; row groups before `start` are not read.

    Raises:
        InputError: No such file, or not in Parquet's format.
        MissingExtraError: pyarrow is not installed.
    """
    with _parquet(path) as file:
        groups, first = _groups(file.metadata, start, stop)
        end = int(file.metadata.num_rows) if stop is None else stop
        for batch in file.iter_batches(batch_size=size, row_groups=groups):
            low, high = max(start - first, 0), min(batch.num_rows, end - first)
            first += batch.num_rows
            if low < high:
                part = batch.slice(low, high - low)
                yield {name: part.column(name).to_pylist() for name in part.schema.names}


def _groups(metadata: Any, start: int, stop: int | None) -> tuple[list[int], int]:
    """The row groups that hold the asked rows, and the row with which the first of them begins."""
    found: list[int] = []
    begins, first = 0, start
    for number in range(metadata.num_row_groups):
        ends = begins + metadata.row_group(number).num_rows
        if ends > start and (stop is None or begins < stop):
            first = first if found else begins
            found.append(number)
        begins = ends
    return found, first


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    parquet: Any = need("pyarrow.parquet", doing="reading a .parquet file", extra="parquet")
    arrow: Any = need("pyarrow", doing="reading a .parquet file", extra="parquet")
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"reading the table {path}: it is damaged, or not in Parquet's format: {error}") from error


@contextmanager
def _lines(path: Path) -> Iterator[tuple[IO[bytes], Iterator[str]]]:
    """The file, and its lines as text; how far the file was read is how far the lines were taken."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        with path.open("rb") as stream:
            if stream.read(len(UTF8_MARK)) != UTF8_MARK:
                stream.seek(0)
            yield stream, (line.decode() for line in iter(stream.readline, b""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"reading the table {path}: expected UTF-8 text with a header; {error}") from error


def _header(path: Path, lines: Iterator[str]) -> list[str]:
    header = next((cells for cells in csv.reader(lines) if cells), [])
    if not header or len(set(header)) != len(header):
        raise InputError(f"reading the table {path}: expected a header with a name for every column, found {header}")
    check_commas(path, header)
    return header


def check_commas(path: Path, header: Sequence[str]) -> None:
    """Refuse a table whose rows would each be one word.

    Raises:
        InputError: The header is one name with semicolons or tabs.
    """
    if len(header) == 1 and any(sign in header[0] for sign in ";\t"):
        raise InputError(
            f"reading the table {path}: expected commas between columns and a point in numbers, found the header "
            f"{header[0]!r}; save it with commas"
        )


def _check_widths(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], done: int) -> None:
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise InputError(f"{path}, row {done + number + 1}: expected {len(header)} values, found {len(row)}")
