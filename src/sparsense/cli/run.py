"""`sparsense run` and `sparsense train`: from a recipe to a folder of results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsense.cli.app import app
from sparsense.cli.progress import progress

if TYPE_CHECKING:
    from sparsense.recipe import Recipe

File = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, such as recipes/quickstart.yaml.")]
Output = Annotated[Path | None, typer.Option(help="Folder of the results.  [default: exported/NAME]")]
DataRoot = Annotated[str | None, typer.Option(help="Folder of the published data sets and networks.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace one value.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


@app.command()
def run(
    recipe: File, output: Output = None, data_root: DataRoot = None, set_: Overrides = None, quiet: Quiet = False
) -> None:
    """Run a recipe; prints a summary, and on the last line the folder of the results (with --quiet only that).

    Train where the recipe says so, prune, attach heads, calibrate, export, measure and report, as the recipe says.
    """
    loaded = load(recipe, set_, doing="running a recipe")
    from sparsense.pipeline import run_recipe

    with progress(quiet=quiet) as report:
        folder = run_recipe(loaded, output=_folder(loaded, output), data_root=data_root, progress=report)
    if not quiet:
        from sparsense.benchmark.card import load_card
        from sparsense.benchmark.summary import summary

        typer.echo(summary(load_card(folder / "card.json")))
    typer.echo(folder)


@app.command()
def train(
    recipe: File, output: Output = None, data_root: DataRoot = None, set_: Overrides = None, quiet: Quiet = False
) -> None:
    """Train the network of a recipe; prints the weights' file.

    As its section `train` says, starting from `network.weights`; `weights: null` trains from scratch.
    """
    loaded = load(recipe, set_, doing="training a network")
    from sparsense.pipeline import train_recipe

    with progress(quiet=quiet) as report:
        file = train_recipe(loaded, output=_folder(loaded, output), data_root=data_root, progress=report)
    typer.echo(file)


def wait_without_spinning() -> None:
    """Threads of torch that wait leave the cores to others; asked before torch is loaded, which reads it once."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def load(recipe: Path, overrides: list[str] | None, *, doing: str) -> Recipe:
    """The recipe, once it is known that it can be run here."""
    wait_without_spinning()
    from sparsense.extras import need
    from sparsense.recipe import load_recipe, parse_override

    loaded = load_recipe(recipe, dict(parse_override(text) for text in overrides or ()))
    need("torch", doing=doing, extra="prune")
    return loaded


def _folder(recipe: Recipe, output: Path | None) -> Path:
    return output or Path("exported") / recipe.name
