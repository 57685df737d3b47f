"""`sparsense sweep`: many runs of one recipe, and the frontier between quality and cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsense.cli.app import app
from sparsense.cli.progress import progress
from sparsense.cli.run import DataRoot, Overrides, Quiet, wait_without_spinning
from sparsense.errors import UnknownNameError

if TYPE_CHECKING:
    from sparsense.sweep.points import Point
    from sparsense.sweep.recipe import SweepRecipe
    from sparsense.sweep.running import Settings
    from sparsense.sweep.store import Store

SOME_FAILED = 1


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP", help="A YAML file, such as recipes/sweeps/digits.yaml.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the sweep.  [default: exported/NAME]")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Points that run at a time; each disturbs the others' times.")] = 1,
    engine: Annotated[str, typer.Option(help="processes, or ray (RAY_ADDRESS names a cluster).")] = "processes",
    data_root: DataRoot = None,
    set_: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the points and what is left to do.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed points again.")] = False,
    report_only: Annotated[bool, typer.Option("--report", help="Only write the report of what is stored.")] = False,
    finals: Annotated[
        bool, typer.Option(help="At the end, time the detectors on the fronts once more, all together.")
    ] = True,
    margin: Annotated[float, typer.Option(min=0, max=1, help="Loss that a recommendation allows.")] = 0.005,
    quiet: Quiet = False,
) -> None:
    """Run every point of a sweep; prints what came of it, and on the last line the folder.

    A sweep that was killed goes on where it was when it is started again; finished points are not repeated. Exit code 1
    says that a point failed; its reason is in the store and in the report.
    """
    from sparsense.extras import need
    from sparsense.recipe import parse_override
    from sparsense.sweep.engines import ENGINES
    from sparsense.sweep.points import points
    from sparsense.sweep.recipe import load_sweep
    from sparsense.sweep.running import Settings
    from sparsense.sweep.store import open_store

    if engine not in ENGINES:
        raise UnknownNameError("engine", engine, ENGINES)
    wait_without_spinning()
    need("torch", doing="running a sweep", extra="prune")
    loaded = load_sweep(file)
    found = points(loaded, file=str(file), extra=dict(parse_override(text) for text in set_ or ()))
    folder = output or Path("exported") / loaded.name
    settings = Settings(jobs, ENGINES[engine], data_root, retry_failed)
    if dry_run:
        _preview(found, folder / "sweep.sqlite", settings)
    elif report_only:
        with open_store(folder / "sweep.sqlite", read_only=True) as store:
            _report(store, folder, margin, quiet=quiet)
    else:
        _run(loaded, found, folder, settings, margin, finals=finals, quiet=quiet)


def _run(
    sweep: SweepRecipe, found: Sequence[Point], folder: Path, settings: Settings, margin: float, *, finals: bool,
    quiet: bool,
) -> None:  # fmt: skip
    from sparsense.sweep.finals import measure_finals
    from sparsense.sweep.running import run_sweep
    from sparsense.sweep.store import open_store

    with open_store(folder / "sweep.sqlite") as store, progress(quiet=quiet) as report:
        came_to = run_sweep(sweep, found, store, folder=folder, settings=settings, progress=report)
        for line in _failures(found, store):
            typer.echo(line, err=True)
        if not quiet:
            typer.echo(
                f"{came_to.done} points done, {came_to.failed} failed, {came_to.stopped} stopped early, "
                f"{came_to.left} left by the budget"
            )
        for line in measure_finals(store, margin=margin) if finals else ():
            typer.echo(f"not measured again: {line}", err=True)
        _report(store, folder, margin, quiet=quiet)
    if came_to.failed:
        raise typer.Exit(SOME_FAILED)


def _report(store: Store, folder: Path, margin: float, *, quiet: bool) -> None:
    from sparsense.sweep.report import contents, write_sweep_report

    write_sweep_report(store, folder, margin=margin)
    if not quiet:
        for line in contents(store, margin=margin)["sentences"]:
            typer.echo(line)
    typer.echo(folder)


def _preview(found: Sequence[Point], file: Path, settings: Settings) -> None:
    from sparsense.sweep.points import describe
    from sparsense.sweep.running import missing
    from sparsense.sweep.store import open_store

    todo = list(found)
    if file.is_file():
        with open_store(file, read_only=True) as store:
            todo = missing(found, store, retry_failed=settings.retry_failed)
    left = {point.key for point in todo}
    for point in found:
        typer.echo(f"{'to do' if point.key in left else 'ended'}  {point.recipe.name}  {describe(point.values)}")


def _failures(found: Sequence[Point], store: Store) -> list[str]:
    """The last line of every reason; the store has all of it."""
    from sparsense.sweep.points import describe

    latest = store.latest()
    return [
        f"failed: {describe(point.values)}: {latest[point.key].body['reason'].splitlines()[-1]}"
        for point in found
        if point.key in latest and latest[point.key].kind == "failed"
    ]
