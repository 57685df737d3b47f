"""`sparsense recalibrate`: another threshold for a finished detector, from the user's own data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsense.cli.app import app
from sparsense.cli.per_class import PerClass, named
from sparsense.cli.progress import progress
from sparsense.cli.promise import left_out, promise


@app.command()
def recalibrate(
    detector: Annotated[Path, typer.Argument(metavar="DETECTOR", help="A detector file.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUTS",
            help="In-distribution: images, folders, .npy, .npz, tables; - for paths.  [default: the stored scores]",
        ),
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Allowed share of false alarms.  [default: as before]")] = None,
    per_class: Annotated[
        PerClass | None,
        typer.Option(help="A threshold per predicted class; pool: of classes with enough.  [default: as before]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write.  [default: DETECTOR itself]")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="For ONNX Runtime.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary on stderr.")] = False,
) -> None:
    """Change the threshold of a detector, without exporting it again; prints the file.

    Threshold and p-values come from inputs of your own; those that the head was fitted on are left out. Scores do not
    change, and are compared with the oracle's once more before the file is replaced.
    """
    from sparsense.detector import recalibrate as change

    with progress(quiet=quiet) as report:
        card = change(
            detector,
            None if inputs is None else _batches(detector, inputs, threads, report),
            name=", ".join(inputs or ()),
            rate=rate,
            per_class=None if per_class is None else named(per_class),
            output=out,
        )
    if not quiet:
        found = card["calibration"]
        typer.echo(f"calibrated on {found['n']:,}: {promise(found)}", err=True)
        for line in left_out(card) if inputs else []:
            typer.echo(line, err=True)
    typer.echo(out or detector)


def _batches(detector: Path, names: list[str], threads: int | None, report: Any) -> Iterator[Any]:
    from sparsense.cli.inputs import batches
    from sparsense.runtime import ExportedDetector

    loaded, done = ExportedDetector(detector, threads=threads), 0
    for _, batch in batches(loaded, names, size=loaded.micro_batch):
        done += len(batch)
        report("scoring", done, done)
        yield batch
