"""`sparsense verify`: does a detector still give the scores of its oracle, on this machine?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsense.cli.app import app
from sparsense.cli.tables import table

DEFAULT = ("CPUExecutionProvider",)


@app.command()
def verify(
    detectors: Annotated[list[Path], typer.Argument(metavar="DETECTORS", help="Detector files.")],
    provider: Annotated[
        list[str] | None, typer.Option(help="Execution provider.  [default: CPUExecutionProvider]")
    ] = None,
) -> None:
    """Does a detector still give the scores of its oracle?

    Scores the inputs stored in it and compares with the scores stored beside them. Exit code 1 when one disagrees.
    """
    from sparsense.detector import verify as compare

    rows = [(str(path), row) for path in detectors for row in compare(path, providers=provider or DEFAULT)]
    columns = ["batch", "inputs", "error", "tolerance", "agrees"]
    for line in table(["detector", *columns], [(name, *(row[c] for c in columns)) for name, row in rows]):
        typer.echo(line)
    if not all(row["agrees"] for _, row in rows):
        raise typer.Exit(1)
