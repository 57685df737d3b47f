"""`sparsense bench`: which detector is better and which is faster, on the user's own data, measured in turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsense.cli.app import app
from sparsense.cli.progress import progress
from sparsense.cli.tables import table
from sparsense.errors import InputError

if TYPE_CHECKING:
    from sparsense.benchmark.bench_card import BenchCard, BenchSpeed

ROWS = ("results", "detectors", "differences", "latency", "sets")


@app.command()
def bench(
    what: Annotated[
        list[Path],
        typer.Argument(metavar="FILES", help="ONNX files, or recipes that were run; ratios refer to the first."),
    ],
    in_distribution: Annotated[
        list[str] | None,
        typer.Option(metavar="INPUTS", help="Usual inputs: images, folders, .npy, .npz, tables; - for paths on stdin."),
    ] = None,
    anomalous: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]INPUTS", help="A set of anomalies; may be given several times."),
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Samples per call.  [default: 1 and 32]")] = None,
    rounds: Annotated[int, typer.Option(min=6, help="Interleaved rounds.")] = 15,
    threads: Annotated[int, typer.Option(min=1, help="For ONNX Runtime.")] = 1,
    latency: Annotated[bool, typer.Option(help="Measure times.")] = True,
    output: Annotated[list[Path] | None, typer.Option(help="Write .json, .md or .html; several times.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per row.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Compare detectors: what they catch, what they cry wolf at, how long they take.

    With --in-distribution the realised false-alarm rate is held against the asked one; with --anomalous, too, come
    AUROC, AUPR, FPR95, detection at the threshold, their intervals, and paired differences between detectors. Quote
    ratios of times: milliseconds drift with the load of the machine.
    """
    from sparsense.benchmark.bench_page import check_suffix, write_bench

    for path in output or []:
        check_suffix(path)
    files = [file for path in what for file in _files(path)]
    with progress(quiet=quiet) as report:
        card = _measured(files, in_distribution or [], anomalous or [], threads, report)
        speeds = _speeds(files, batch or [1, 32], rounds, threads) if latency else []
    card = card.model_copy(update={"latency": speeds})
    for path in output or []:
        write_bench(card, path)
    for line in _json_lines(card) if as_json else _lines(card):
        typer.echo(line)


def _measured(
    files: list[Path], in_distribution: list[str], anomalous: list[str], threads: int, report: object
) -> BenchCard:
    """Everything but times."""
    from datetime import UTC, datetime

    from sparsense.benchmark.bench import difference_rows, result_rows
    from sparsense.benchmark.bench_card import BenchCard
    from sparsense.benchmark.machine import this_machine, versions
    from sparsense.cli.contest import contest, named_sets

    parts = named_sets(in_distribution, anomalous)
    detectors = _detectors(files) if in_distribution else []
    contestants, rows, sets = contest(detectors, parts, threads=threads, report=report) if detectors else ([], [], [])  # type: ignore[arg-type]
    return BenchCard(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        machine=this_machine(),
        sets=sets,
        detectors=rows,
        results=result_rows(contestants),
        differences=difference_rows(contestants),
        latency=[],
    )


def _detectors(files: list[Path]) -> list[Path]:
    """The files that carry a card; of the others only the speed can be measured, and that is said."""
    from sparsense.inspect import inspect_file

    found = [file for file in files if inspect_file(file).card is not None]
    for file in files:
        if file not in found:
            typer.echo(f"{file} is no detector: only its speed is compared", err=True)
    if not found:
        raise InputError("comparing detectors: none of the files is a detector; sparsense attach makes one")
    return found


def _speeds(files: list[Path], batches: list[int], rounds: int, threads: int) -> list[BenchSpeed]:
    from sparsense.benchmark.bench_card import BenchSpeed
    from sparsense.benchmark.latency import compare_latency
    from sparsense.benchmark.onnx_cost import file_bytes, onnx_call

    rows = []
    for size in batches:
        calls = {str(file): onnx_call(file, batch=size, threads=threads) for file in files}
        for name, found in compare_latency(calls, rounds=rounds).items():
            row = BenchSpeed(file=name, bytes=file_bytes(name).raw, batch=size, threads=threads, **asdict(found))
            rows.append(row)
    return rows


def _json_lines(card: BenchCard) -> Iterator[str]:
    for name in ROWS:
        for row in getattr(card, name):
            yield json.dumps({"table": name, **row.model_dump()}, ensure_ascii=False)


def _lines(card: BenchCard) -> Iterator[str]:
    """Tables, with what their columns mean above them where there is more than one."""
    from sparsense.benchmark.bench_tables import tables

    found = tables(card)
    for index, part in enumerate(found):
        if len(found) > 1:
            yield f"{'' if index == 0 else chr(10)}{part.caption}"
        yield from table(part.columns, part.rows)


def _files(path: Path) -> list[Path]:
    """The file itself; of a recipe, the ONNX files that its run left behind."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return [path]
    from sparsense.recipe.load import read_recipe, read_text

    folder = Path("exported") / read_recipe(read_text(path), file=str(path)).name
    if not (found := sorted(folder.rglob("*.onnx"))):
        raise InputError(f"recipe {path} has left no ONNX file in {folder}: run it first, sparsense run {path}")
    return found
