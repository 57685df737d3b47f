"""`sparsense score`: what a detector says about files, one line each, in bounded memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsense.cli.app import app
from sparsense.cli.progress import progress
from sparsense.errors import InputError, UnknownNameError
from sparsense.scoring.writing import Format, Write, text_writer, writer

if TYPE_CHECKING:
    from sparsense.runtime import ExportedDetector
    from sparsense.scoring.folder import Job, Tally


@app.command()
def score(
    detector: Annotated[Path, typer.Argument(metavar="DETECTOR", help="A detector file.")],
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUTS", help="Images, folders, .npy, .npz, .csv, .parquet; - for paths on stdin."),
    ],
    format: Annotated[Format, typer.Option(help="Of the rows.")] = Format.TABLE,  # noqa: A002 - the option's name
    output: Annotated[Path | None, typer.Option(help="Write the rows to this file.")] = None,
    rows_per_file: Annotated[
        int | None,
        typer.Option(min=1, help="Make OUTPUT a folder of files of so many rows; started again, it goes on."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="here, or ray (RAY_ADDRESS names a cluster), with --rows-per-file.")
    ] = "here",
    jobs: Annotated[int, typer.Option(min=1, help="Workers of --engine ray.")] = 1,
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
    from sparsense.scoring.folder import Job

    loaded = ExportedDetector(detector, threads=threads)
    if rows_per_file is None:
        total = _to_file(loaded, inputs, output, Job(str(detector), format.value, threshold, explain))
    else:
        job = Job(str(detector), format.value, threshold, explain, threads)
        total = _to_folder(job, inputs, output, rows_per_file * loaded.group, (engine, jobs, quiet))
    if not quiet:
        above = _used(loaded, threshold)
        what = f"groups of {loaded.group} scored" if loaded.group > 1 else "scored"
        typer.echo(f"{total.rows:,} {what}, {total.anomalies:,} anomalous (score above {above})", err=True)
    if fail_on_anomaly and total.anomalies:
        raise typer.Exit(1)


def _to_file(detector: ExportedDetector, inputs: list[str], output: Path | None, job: Job) -> Tally:
    from sparsense.cli.inputs import batches
    from sparsense.scoring.folder import Tally
    from sparsense.scoring.rows import part_names, score_rows

    names = part_names(detector) if job.explain else None
    found = batches(detector, inputs, size=detector.micro_batch)
    count = anomalies = 0
    with _destination(output, Format(job.format), names) as write:
        for row in score_rows(detector, found, job.threshold, explain=job.explain):
            write(row)
            count, anomalies = count + 1, anomalies + row["is_anomaly"]
    return Tally(count, anomalies)


def _to_folder(
    job: Job, inputs: list[str], output: Path | None, inputs_per_file: int, how: tuple[str, int, bool]
) -> Tally:
    """Parts made of so many inputs; those that are there already are counted, not made again."""
    from sparsense.cli.inputs import paths
    from sparsense.scoring.engines import ENGINES
    from sparsense.scoring.folder import Tally, finish, opened_folder
    from sparsense.scoring.pieces import pieces

    engine, jobs, quiet = how
    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    if output is None or job.format == Format.TABLE:
        raise InputError("a folder of scores needs its name, --output FOLDER, and --format parquet, csv or jsonl")
    rows = anomalies = 0
    cut = list(pieces(paths(inputs), inputs_per_file, rows=inputs_per_file))
    with opened_folder(output, job, cut) as tasks, progress(quiet=quiet) as report:
        for done, found in enumerate(ENGINES[engine](job, tasks, jobs), 1):
            rows, anomalies = rows + found.rows, anomalies + found.anomalies
            report("scoring", done, len(tasks))
        finish(output, Tally(rows, anomalies))
    return Tally(rows, anomalies)


def _used(detector: ExportedDetector, threshold: float | None) -> str:
    if threshold is None and detector.class_thresholds is not None:
        return "the threshold of its predicted class"
    return f"{detector.threshold if threshold is None else threshold:.6g}"


@contextmanager
def _destination(output: Path | None, kind: Format, parts: list[str] | None) -> Iterator[Write]:
    """Standard output, or a file that appears when it is complete."""
    if output is None:
        if kind is Format.PARQUET:
            raise InputError("Parquet is not for a terminal: name a file with --output")
        yield text_writer(sys.stdout, kind, explain=parts is not None)
        return
    from sparsense.files import atomic_write

    with atomic_write(output) as temporary, writer(temporary, kind, parts) as write:
        yield write
