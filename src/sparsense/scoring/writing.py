"""How rows are written: a table for people, CSV, JSON lines, Parquet."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from sparsense.errors import printable
from sparsense.extras import need

Row = dict[str, Any]
"""`input`, `score`, `p_value`, `is_anomaly`, and `parts` where explanations were asked for."""
Write = Callable[[Row], object]
ROWS_PER_GROUP = 4096


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


@contextmanager
def writer(file: Path, kind: Format, parts: Sequence[str] | None = None) -> Iterator[Write]:
    """Write rows to a file, which is complete at the end of the block.

    Args:
        file: The file; `atomic_write` makes it appear whole.
        kind: The format.
        parts: Names of what scores are made of, where rows say it.

    Raises:
        MissingExtraError: Parquet without pyarrow.
    """
    if kind is Format.PARQUET:
        with _parquet(file, parts or ()) as write:
            yield write
        return
    with file.open("w", encoding="utf-8", newline="") as stream:
        yield text_writer(stream, kind, explain=parts is not None)


def text_writer(stream: TextIO, kind: Format, *, explain: bool) -> Write:
    """Write rows to a stream of text."""
    return {Format.TABLE: _table, Format.CSV: _csv, Format.JSONL: _jsonl}[kind](stream, explain)


def largest(parts: dict[str, float]) -> str:
    """The three parts that add most.

    Example:
        >>> largest({"a": 1.0, "b": 5.0, "c": -2.0, "d": 2.5})
        'b 5, d 2.5, a 1'
    """
    first = sorted(parts.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {value:.3g}" for name, value in first)


def _table(stream: TextIO, explain: bool) -> Write:
    stream.write(f"{'score':>12}  {'p_value':>8}  anomaly  input{'  largest parts' if explain else ''}\n")

    def write(row: Row) -> None:
        anomaly = "yes" if row["is_anomaly"] else "no"
        parts = f"  {largest(row['parts'])}" if explain else ""
        names = printable(f"{row['input']}{parts}")
        stream.write(f"{row['score']:>12.6g}  {row['p_value']:>8.4f}  {anomaly:<7}  {names}\n")

    return write


def _jsonl(stream: TextIO, _explain: bool) -> Write:
    def write(row: Row) -> None:
        stream.write(json.dumps(_finite(row), ensure_ascii=False) + "\n")

    return write


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity, at any depth."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(stream: TextIO, explain: bool) -> Write:
    columns = ["input", "score", "p_value", "is_anomaly", *(["parts"] if explain else [])]
    rows = csv.DictWriter(stream, columns, lineterminator="\n")
    rows.writeheader()
    return lambda row: rows.writerow(row | ({"parts": largest(row["parts"])} if explain else {}))


@contextmanager
def _parquet(file: Path, parts: Sequence[str]) -> Iterator[Write]:
    """Columns `input`, `score`, `p_value`, `is_anomaly`, and one per part; a row group is in memory at a time."""
    doing = "writing scores as Parquet"
    arrow: Any = need("pyarrow", doing=doing, extra="parquet")
    parquet: Any = need("pyarrow.parquet", doing=doing, extra="parquet")
    kinds = {"input": arrow.string(), "score": arrow.float32(), "p_value": arrow.float32(), "is_anomaly": arrow.bool_()}
    schema = arrow.schema([*kinds.items(), *((f"parts.{name}", arrow.float32()) for name in parts)])
    waiting: list[Row] = []

    def flush() -> None:
        rows.write_table(arrow.Table.from_pylist(waiting, schema))
        waiting.clear()

    def write(row: Row) -> None:
        waiting.append({**row, **{f"parts.{name}": value for name, value in row.get("parts", {}).items()}})
        if len(waiting) == ROWS_PER_GROUP:
            flush()

    with parquet.ParquetWriter(file, schema) as rows:
        yield write
        flush()


def flags(file: Path, kind: Format) -> Iterator[bool]:
    """`is_anomaly` of every row of a file that was written."""
    if kind is Format.PARQUET:
        parquet: Any = need("pyarrow.parquet", doing="reading scores", extra="parquet")
        with parquet.ParquetFile(file) as found:
            for batch in found.iter_batches(columns=["is_anomaly"]):
                yield from batch.column(0).to_pylist()
        return
    with file.open(encoding="utf-8", newline="") as stream:
        if kind is Format.CSV:
            yield from (row["is_anomaly"] == "True" for row in csv.DictReader(stream))
        else:
            yield from (bool(json.loads(line)["is_anomaly"]) for line in stream)
