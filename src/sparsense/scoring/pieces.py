"""The work in pieces: image files, or rows of one array or table, that can be scored anywhere and in any order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from sparsense.data.array_rows import array_shape
from sparsense.data.table_rows import csv_marks, parquet_count

ARRAYS = (".npy", ".npz")
TABLES = (".csv", ".parquet")


@dataclass(frozen=True)
class Piece:
    """Plain values, so that it can be sent anywhere.

    Args:
        files: One array or table; or image files, each of them a row.
        start: The first row.
        stop: The row after the last one; None: to the end.
        byte: Where the first row of a .csv file begins.
    """

    files: tuple[str, ...]
    start: int = 0
    stop: int | None = None
    byte: int | None = None

    @property
    def kind(self) -> str:
        """The suffix of an array or a table; empty for images."""
        suffix = Path(self.files[0]).suffix.lower()
        return suffix if suffix in ARRAYS + TABLES else ""

    def to_json(self) -> str:
        """As text; `from_json` reads it back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Piece:
        """The inverse of `to_json`.

        Example:
            >>> Piece.from_json(Piece(("a.npy",), 3, 5).to_json()) == Piece(("a.npy",), 3, 5)
            True
        """
        fields = json.loads(text)
        return cls(**{**fields, "files": tuple(fields["files"])})


def pieces(files: Iterable[Path], images: int, *, rows: int | None = None) -> Iterator[Piece]:
    """Cut files into pieces, in their order; nothing is taken from `files` before it is needed.

    Args:
        files: Images, arrays, tables.
        images: At most so many in a piece.
        rows: At most so many of an array or table in a piece; None: all of a file, which is not looked into.

    Raises:
        InputError: With `rows`: a file that is not there, or cannot be read.
    """
    waiting: list[str] = []
    for file in files:
        if file.suffix.lower() not in ARRAYS + TABLES:
            waiting.append(str(file))
            if len(waiting) == images:
                yield Piece(tuple(waiting))
                waiting = []
            continue
        if waiting:
            yield Piece(tuple(waiting))
            waiting = []
        yield from [Piece((str(file),))] if rows is None else _cut(file, rows)
    if waiting:
        yield Piece(tuple(waiting))


def _cut(file: Path, rows: int) -> Iterator[Piece]:
    name = (str(file),)
    if file.suffix.lower() == ".csv":
        for here, there in pairwise(csv_marks(file, rows)):
            yield Piece(name, here.row, there.row, here.byte)
        return
    count = parquet_count(file) if file.suffix.lower() == ".parquet" else array_shape(file)[0]
    for start in range(0, count, rows):
        yield Piece(name, start, min(start + rows, count))
