"""`sparsense compare`: is the second one really worse? Paired differences with intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsense.cli.app import app
from sparsense.cli.tables import table as lines
from sparsense.errors import InputError

if TYPE_CHECKING:
    from sparsense.sweep.compare import Difference

Given = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run; with data, also a detector file.")]


@app.command()
def compare(
    first: Given,
    second: Given,
    in_distribution: Annotated[
        list[str] | None, typer.Option(metavar="INPUTS", help="Compare detector files on these usual inputs.")
    ] = None,
    anomalous: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]INPUTS", help="A set of anomalies; may be given several times.")
    ] = None,
    head: Annotated[list[str] | None, typer.Option(help="Head; twice: of the first and of the second.")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="dense or pruned; once, or twice.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per difference.")] = False,
) -> None:
    """Compare two runs on the inputs that they share, or two detectors on given data.

    Of each run the detector to ship is taken, unless --head or --variant name another: compare one run with itself
    under --variant dense --variant pruned. AUROC, FPR95, detection and false alarms are paired; accuracy is not.
    """
    heads, variants = _two(head, "--head"), _two(variant, "--variant")
    if in_distribution or anomalous:
        if head or variant:
            raise InputError("comparing detectors on data: give the detector files; --head and --variant are for runs")
        rows, costs = _on_data([first, second], in_distribution or [], anomalous or []), list[str]()
    else:
        rows, costs = _runs((first, second), heads, variants)
    if as_json:
        for row in rows:
            typer.echo(json.dumps({**row.model_dump(), "told_apart": row.told_apart}, ensure_ascii=False))
        return
    from sparsense.sweep.compare import table

    shown = table(rows)
    typer.echo(f"first: {first}\nsecond: {second}\n{shown.caption}")
    for line in [*lines(shown.columns, shown.rows), *costs]:
        typer.echo(line)


def _runs(
    folders: tuple[Path, Path], heads: list[str | None], variants: list[str | None]
) -> tuple[list[Difference], list[str]]:
    from sparsense.sweep.compare import compare_sides, costs, open_side

    first, second = (
        open_side(folder, head=head, variant=variant)
        for folder, head, variant in zip(folders, heads, variants, strict=True)
    )
    spent = costs(first, second)
    return compare_sides(first, second), ["", *lines(spent.columns, spent.rows)]


def _on_data(given: list[Path], in_distribution: list[str], anomalous: list[str]) -> list[Difference]:
    from sparsense.cli.contest import contest, named_sets
    from sparsense.sweep.compare import compare_contestants

    if not (in_distribution and anomalous):
        raise InputError("comparing detectors on data: give --in-distribution and at least one --anomalous")
    files = [path / "detector.onnx" if path.is_dir() else path for path in given]
    contestants, _, _ = contest(files, named_sets(in_distribution, anomalous), threads=1, report=lambda *_: None)
    return compare_contestants(*contestants)


def _two(values: list[str] | None, option: str) -> list[str | None]:
    if values is not None and len(values) > 2:
        raise InputError(f"comparing two runs: {option} was given {len(values)} times; give it once or twice")
    given: list[str | None] = [*values, *values] if values else [None, None]
    return given[:2]
