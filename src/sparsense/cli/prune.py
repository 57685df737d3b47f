"""`sparsense prune`: the network half of a recipe, or a look at what could be pruned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsense.cli.app import app
from sparsense.cli.progress import progress
from sparsense.cli.run import DataRoot, File, Overrides, Quiet, load
from sparsense.errors import InputError

if TYPE_CHECKING:
    from sparsense.benchmark.card import Card
    from sparsense.pipeline.analysis import Analysis, Row
    from sparsense.recipe import Recipe

Output = Annotated[Path | None, typer.Option(help="Folder of the results.  [default: exported/NAME-pruned]")]


@app.command()
def prune(
    recipe: File,
    output: Output = None,
    data_root: DataRoot = None,
    set_: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what could be pruned, and what not.")] = False,
    analyse: Annotated[bool, typer.Option("--analyse", help="Only measure how much each layer can lose.")] = False,
    quiet: Quiet = False,
) -> None:
    """Prune the network of a recipe, without detectors; prints what was reached, and the folder of the results.

    The folder holds the smaller network (network.safetensors, network.json), its ONNX form (network.onnx), the
    sensitivities and card.json. --analyse writes analysis.json and analysis.html instead, --dry-run writes nothing.
    A job that was killed goes on where it was when it is started again.
    """
    if dry_run and analyse:
        raise InputError("--dry-run looks at the network alone, --analyse measures it on data; give one of them")
    loaded = load(recipe, set_, doing="pruning a network")
    if dry_run:
        from sparsense.pipeline import preview_recipe

        typer.echo(preview_recipe(loaded, data_root=data_root))
    elif analyse:
        _analyse(loaded, output, data_root, quiet=quiet)
    else:
        _prune(loaded, output, data_root, quiet=quiet)


def _prune(recipe: Recipe, output: Path | None, data_root: str | None, *, quiet: bool) -> None:
    from sparsense.pipeline import prune_recipe

    folder = output or Path("exported") / f"{recipe.name}-pruned"
    with progress(quiet=quiet) as report:
        prune_recipe(recipe, output=folder, data_root=data_root, progress=report)
    if not quiet:
        from sparsense.benchmark.card import load_card

        typer.echo(outcome(load_card(folder / "card.json")))
    typer.echo(folder)


def _analyse(recipe: Recipe, output: Path | None, data_root: str | None, *, quiet: bool) -> None:
    from sparsense.pipeline import analyse_recipe

    folder = output or Path("exported") / f"{recipe.name}-analysis"
    with progress(quiet=quiet) as report:
        analyse_recipe(recipe, output=folder, data_root=data_root, progress=report)
    if not quiet:
        from sparsense.pipeline.analysis import load_analysis

        typer.echo(harmless(load_analysis(folder / "analysis.json")))
    typer.echo(folder)


def outcome(card: Card) -> str:
    """What was asked and reached, and what each stage did to the network."""
    assert card.pruning is not None
    lines = [f"asked: {card.pruning.target}"]
    lines += [f"reached: {name.replace('_', '-')} {value:.3g}" for name, value in card.pruning.reached.items()]
    lines.append(f"proof: {card.pruning.proof}")
    for row in card.accuracy:
        found = row.reconstruction_error if row.accuracy is None else row.accuracy
        if found is not None:
            what = "error" if row.accuracy is None else "accuracy"
            lines.append(f"{row.variant}, {row.stage}: {what} {found:.4g}")
    for time in card.latency:
        if time.verdict != "baseline":
            low, high = time.ratio_interval
            lines.append(f"time at batch {time.batch}: {time.ratio:.2f} of dense ({low:.2f} to {high:.2f})")
    return "\n".join([*lines, *card.notes])


def harmless(analysis: Analysis) -> str:
    """How much each layer alone can lose for almost nothing."""
    price = "accuracy falls by at most a point" if analysis.accuracy is not None else "loss rises by at most a tenth"
    lines = [f"{analysis.samples} held-out training samples: loss {analysis.loss:.4g}"]
    if analysis.accuracy is not None:
        lines[0] += f", accuracy {analysis.accuracy:.4g}"
    lines.append(f"each layer alone can lose, while the {price}:")
    for row in analysis.rows:
        good = [ratio for index, ratio in enumerate(row.ratios) if _almost_nothing(analysis, row, index)]
        lines.append(f"  {max(good, default=0):4.0%}  {', '.join(row.layers)}")
    return "\n".join(lines)


def _almost_nothing(analysis: Analysis, row: Row, index: int) -> bool:
    if analysis.accuracy is not None and row.accuracy is not None:
        return row.accuracy[index] >= analysis.accuracy - 0.01
    return row.loss[index] <= analysis.loss + 0.1 * abs(analysis.loss)
