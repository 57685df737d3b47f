"""From a file and overrides to a checked recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sparsense.errors import RecipeError
from sparsense.recipe.names import check_names
from sparsense.recipe.problems import recipe_error, show
from sparsense.recipe.schema import Recipe
from sparsense.recipe.text import read_yaml


def load_recipe(path: str | os.PathLike[str], overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read, override and check a recipe.

    Args:
        path: A YAML file.
        overrides: Dotted key -> value, such as `{"prune.sparsity": 0.7, "heads.0.options.p": 2}`; they take
            the place of what the file says, before anything is checked.

    Returns:
        The recipe, every default filled in; names of sources, heads, criteria and networks are known ones, as
        far as the installed extras can tell.

    Raises:
        RecipeError: It says which file and key, what was found, what is allowed, and the nearest key.
    """
    file = str(path)
    return check_names(read_recipe(read_text(Path(path)), overrides, file=file), file=file)


def read_recipe(text: str, overrides: Mapping[str, Any] | None = None, *, file: str = "") -> Recipe:
    """The recipe that a YAML text says; names of registered things are not looked up."""
    fields = read_yaml(text, file=file)
    if fields is None:
        raise RecipeError("the recipe is empty; the least it needs is name, network and data", file=file)
    if not isinstance(fields, dict):
        raise RecipeError(f"a recipe is a mapping (key: value); got {show(fields)}", file=file)
    for key, value in (overrides or {}).items():
        _override(fields, key, deepcopy(value), file)  # a later key may be set inside of it
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        raise recipe_error(error, Recipe, file=file) from error


def parse_override(text: str) -> tuple[str, Any]:
    """Key and value of one `--set`; the value is YAML.

    Example:
        >>> parse_override("finetune.augment=[shift]")
        ('finetune.augment', ['shift'])
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(f"expected key=value with a dotted key, such as prune.sparsity=0.7; got {text!r}")
    return key, read_yaml(value, file=f"--set {key}")


def read_text(path: Path) -> str:
    """The text of a recipe file."""
    if not path.is_file():
        raise RecipeError("there is no such file", file=str(path))
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"not a text in UTF-8: {error}", file=str(path)) from error


def _override(fields: dict[str, Any], key: str, value: Any, file: str) -> None:
    """Set one dotted key; sections that are missing or null on the way are made."""
    *parents, last = key.split(".")
    node: Any = fields
    for depth, part in enumerate(parents):
        at = _position(node, part, ".".join(parents[:depth]), file)
        if isinstance(node, dict) and node.get(part) is None:
            node[part] = {}
        node = node[at]
    node[_position(node, last, ".".join(parents), file)] = value


def _position(node: Any, part: str, where: str, file: str) -> str | int:
    """The key of a mapping, or the number of an existing element of a list."""
    if isinstance(node, dict):
        return part
    if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
        return int(part)
    raise RecipeError(f"has no {part!r} to override; it is {show(node)}", file=file, key=where)
