"""`sparsense score`: what a detector says about files, one line each, in bounded memory."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from sparsense.cli.app import app

Row = dict[str, Any]


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"


@app.command()
def score(
    detector: Annotated[Path, typer.Argument(metavar="DETECTOR", help="A detector file.")],
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUTS", help="Images, folders, .npy, .npz; - for paths on stdin.")
    ],
    format: Annotated[Format, typer.Option(help="Of the rows.")] = Format.TABLE,  # noqa: A002 - the option's name
    output: Annotated[Path | None, typer.Option(help="Write the rows to this file.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Replaces the calibrated threshold.")] = None,
    fail_on_anomaly: Annotated[bool, typer.Option("--fail-on-anomaly", help="Exit 1 if any is found.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="For ONNX Runtime.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No summary on stderr.")] = False,
) -> None:
    """Score inputs and decide which are anomalies."""
    from sparsense.runtime import ExportedDetector

    loaded = ExportedDetector(detector, threads=threads)
    count = anomalies = 0
    with _destination(output) as stream:
        write = _WRITERS[format](stream)
        for row in _rows(loaded, inputs, threshold):
            write(row)
            count, anomalies = count + 1, anomalies + row["is_anomaly"]
    if not quiet:
        used = loaded.threshold if threshold is None else threshold
        typer.echo(f"{count:,} scored, {anomalies:,} anomalous (score above {used:.6g})", err=True)
    if fail_on_anomaly and anomalies:
        raise typer.Exit(1)


def _rows(detector: Any, inputs: list[str], threshold: float | None) -> Iterator[Row]:
    from sparsense.cli.inputs import batches

    for names, batch in batches(detector, inputs, size=detector.micro_batch):
        found = detector(batch, threshold=threshold)
        for name, value, p, anomaly in zip(names, found.score, found.p_value, found.is_anomaly, strict=True):
            yield {"input": name, "score": float(value), "p_value": float(p), "is_anomaly": bool(anomaly)}


@contextmanager
def _destination(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears when it is complete."""
    if output is None:
        yield sys.stdout
        return
    from sparsense.files import atomic_write

    with atomic_write(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        yield stream


def _table(stream: TextIO) -> Callable[[Row], None]:
    stream.write(f"{'score':>12}  {'p_value':>8}  anomaly  input\n")

    def write(row: Row) -> None:
        anomaly = "yes" if row["is_anomaly"] else "no"
        stream.write(f"{row['score']:>12.6g}  {row['p_value']:>8.4f}  {anomaly:<7}  {row['input']}\n")

    return write


def _jsonl(stream: TextIO) -> Callable[[Row], None]:
    def write(row: Row) -> None:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        stream.write(json.dumps(finite, ensure_ascii=False) + "\n")  # JSON knows no NaN

    return write


def _csv(stream: TextIO) -> Callable[[Row], None]:
    writer = csv.DictWriter(stream, ["input", "score", "p_value", "is_anomaly"], lineterminator="\n")
    writer.writeheader()
    return writer.writerow


_WRITERS: dict[Format, Callable[[TextIO], Callable[[Row], object]]] = {
    Format.TABLE: _table,
    Format.JSONL: _jsonl,
    Format.CSV: _csv,
}
