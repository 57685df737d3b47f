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
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from sparsense.cli.app import app
from sparsense.errors import InputError

if TYPE_CHECKING:
    from sparsense.runtime import ExportedDetector

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
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what each score is made of: all parts in jsonl, else the largest 3.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="For ONNX Runtime.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No summary on stderr.")] = False,
) -> None:
    """Score inputs and decide which are anomalies."""
    from sparsense.runtime import ExportedDetector

    loaded = ExportedDetector(detector, threads=threads)
    count = anomalies = 0
    with _destination(output) as stream:
        write = _WRITERS[format](stream, explain)
        for row in _rows(loaded, inputs, threshold, explain=explain):
            write(row)
            count, anomalies = count + 1, anomalies + row["is_anomaly"]
    if not quiet:
        typer.echo(f"{count:,} scored, {anomalies:,} anomalous (score above {_used(loaded, threshold)})", err=True)
    if fail_on_anomaly and anomalies:
        raise typer.Exit(1)


def _used(detector: ExportedDetector, threshold: float | None) -> str:
    if threshold is None and detector.class_thresholds is not None:
        return "the threshold of its predicted class"
    return f"{detector.threshold if threshold is None else threshold:.6g}"


def _rows(detector: ExportedDetector, inputs: list[str], threshold: float | None, *, explain: bool) -> Iterator[Row]:
    from sparsense.cli.inputs import batches

    parts = _part_names(detector) if explain else []
    for names, batch in batches(detector, inputs, size=detector.micro_batch):
        found = detector(batch, threshold=threshold, explain=explain)
        columns = zip(names, found.score, found.p_value, found.is_anomaly, strict=True)
        for index, (name, value, p, anomaly) in enumerate(columns):
            row = {"input": name, "score": float(value), "p_value": float(p), "is_anomaly": bool(anomaly)}
            if found.explanation is not None:
                row["parts"] = dict(zip(parts, map(float, found.explanation[index]), strict=True))
            yield row


def _part_names(detector: ExportedDetector) -> list[str]:
    """What the numbers of `explanation` belong to."""
    names: list[str] = (detector.card.get("explanation") or {}).get("names", [])
    if "explanation" not in detector.explanations or not names:
        raise InputError(
            f"{detector.path.name} cannot say what its scores are made of: its head has no parts that add up, or was "
            "attached without --explain"
        )
    return names


def _largest(parts: dict[str, float]) -> str:
    """The three parts that add most.

    Example:
        >>> _largest({"a": 1.0, "b": 5.0, "c": -2.0, "d": 2.5})
        'b 5, d 2.5, a 1'
    """
    first = sorted(parts.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {value:.3g}" for name, value in first)


@contextmanager
def _destination(output: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears when it is complete."""
    if output is None:
        yield sys.stdout
        return
    from sparsense.files import atomic_write

    with atomic_write(output) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        yield stream


def _table(stream: TextIO, explain: bool) -> Callable[[Row], None]:
    stream.write(f"{'score':>12}  {'p_value':>8}  anomaly  input{'  largest parts' if explain else ''}\n")

    def write(row: Row) -> None:
        anomaly = "yes" if row["is_anomaly"] else "no"
        parts = f"  {_largest(row['parts'])}" if explain else ""
        stream.write(f"{row['score']:>12.6g}  {row['p_value']:>8.4f}  {anomaly:<7}  {row['input']}{parts}\n")

    return write


def _jsonl(stream: TextIO, _explain: bool) -> Callable[[Row], None]:
    def write(row: Row) -> None:
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        stream.write(json.dumps(finite, ensure_ascii=False) + "\n")  # JSON knows no NaN

    return write


def _csv(stream: TextIO, explain: bool) -> Callable[[Row], object]:
    columns = ["input", "score", "p_value", "is_anomaly", *(["parts"] if explain else [])]
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    return lambda row: writer.writerow(row | ({"parts": _largest(row["parts"])} if explain else {}))


_WRITERS: dict[Format, Callable[[TextIO, bool], Callable[[Row], object]]] = {
    Format.TABLE: _table,
    Format.JSONL: _jsonl,
    Format.CSV: _csv,
}
