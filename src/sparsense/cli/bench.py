"""`sparsense bench`: which detector is faster, measured in turns."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsense.cli.app import app
from sparsense.cli.tables import table
from sparsense.errors import InputError


@app.command()
def bench(
    what: Annotated[
        list[Path],
        typer.Argument(metavar="FILES", help="ONNX files, or recipes that were run; ratios refer to the first."),
    ],
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Samples per call.  [default: 1 and 32]")] = None,
    rounds: Annotated[int, typer.Option(min=6, help="Interleaved rounds.")] = 15,
    threads: Annotated[int, typer.Option(min=1, help="For ONNX Runtime.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per row.")] = False,
) -> None:
    """Compare the latency of files, measured in turns.

    Ratios are what to quote: milliseconds drift with the load of the machine.
    """
    from sparsense.benchmark.latency import compare_latency
    from sparsense.benchmark.onnx_cost import file_bytes, onnx_call

    files = [file for path in what for file in _files(path)]
    rows: list[dict[str, Any]] = []
    for size in batch or [1, 32]:
        calls = {str(file): onnx_call(file, batch=size, threads=threads) for file in files}
        found = compare_latency(calls, rounds=rounds)
        rows += [
            {"file": name, "bytes": file_bytes(name).raw, "batch": size, "threads": threads, **asdict(latency)}
            for name, latency in found.items()
        ]
    for line in map(json.dumps, rows) if as_json else _lines(rows):
        typer.echo(line)


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    header = ["file", "bytes", "batch", "median ms", "quartiles", "samples/s", "ratio", "95 % interval", "verdict"]
    cells = [
        (
            row["file"],
            row["bytes"],
            row["batch"],
            row["median_ms"],
            _span(row["quartiles_ms"]),
            round(1e3 * row["batch"] / row["median_ms"]),
            row["ratio"],
            _span(row["ratio_interval"]),
            row["verdict"],
        )
        for row in rows
    ]
    return list(table(header, cells))


def _span(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.3g} to {pair[1]:.3g}"


def _files(path: Path) -> list[Path]:
    """The file itself; of a recipe, the ONNX files that its run left behind."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return [path]
    from sparsense.recipe.load import read_recipe, read_text

    folder = Path("exported") / read_recipe(read_text(path), file=str(path)).name
    if not (found := sorted(folder.rglob("*.onnx"))):
        raise InputError(f"recipe {path} has left no ONNX file in {folder}: run it first, sparsense run {path}")
    return found
