"""`sparsense list`: the names that recipes and commands may use."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from sparsense.cli.app import app
from sparsense.cli.tables import table
from sparsense.errors import RecipeError

Entries = list[tuple[str, str]]


class Kind(StrEnum):
    """What can be listed."""

    CRITERIA = "criteria"
    HEADS = "heads"
    NETWORKS = "networks"
    RECIPES = "recipes"
    SOURCES = "sources"


@app.command("list")
def list_names(kind: Annotated[Kind | None, typer.Argument(help="One kind; all without.")] = None) -> None:
    """List what recipes and commands may name."""
    for shown in [kind] if kind else list(Kind):
        if kind is None:
            typer.echo(f"\n{shown.value}")
        for line in table(["name", "what it is"], _ENTRIES[shown]()):
            typer.echo(line)


def _criteria() -> Entries:
    if not find_spec("torch"):
        return _NEEDS_TORCH
    from sparsense.criteria import CRITERIA

    return [(name, summary(CRITERIA[name])) for name in sorted(CRITERIA)]


def _networks() -> Entries:
    if not find_spec("torch"):
        return _NEEDS_TORCH
    from sparsense.networks import NETWORKS

    return [(name, summary(NETWORKS[name])) for name in sorted(NETWORKS)]


def _heads() -> Entries:
    from sparsense.heads import HEADS

    return [(name, summary(HEADS[name])) for name in sorted(HEADS)]


def _sources() -> Entries:
    from sparsense.data import SOURCES

    return [(name, SOURCES[name].summary) for name in sorted(SOURCES)]


def _recipes() -> Entries:
    """The recipes below the working folder; one that cannot be read says so."""
    from sparsense.recipe.load import read_recipe, read_text

    entries = []
    for path in sorted(Path("recipes").glob("*.yaml")):
        try:
            name = read_recipe(read_text(path)).name
        except RecipeError as error:
            name = f"cannot be read: {str(error).splitlines()[0]}"
        entries.append((str(path), name))
    return entries


def summary(entry: object) -> str:
    """The first line of a docstring; a partial and a criterion stand for the function in them."""
    entry = getattr(entry, "func", getattr(entry, "function", entry))
    return (inspect.getdoc(entry) or "").partition("\n")[0]


_NEEDS_TORCH: Entries = [("-", "needs torch: pip install 'sparsense[prune]'")]
_ENTRIES: dict[Kind, Callable[[], Entries]] = {
    Kind.CRITERIA: _criteria,
    Kind.HEADS: _heads,
    Kind.NETWORKS: _networks,
    Kind.RECIPES: _recipes,
    Kind.SOURCES: _sources,
}
