"""From a sweep to its points: recipes that differ, each known by the hash of what it says."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sparsense.errors import RecipeError
from sparsense.recipe.load import read_recipe, read_text
from sparsense.recipe.names import check_names
from sparsense.recipe.schema import Recipe
from sparsense.sweep.recipe import MOST_POINTS, Range, SweepRecipe


@dataclass(frozen=True)
class Point:
    """One recipe of a sweep.

    Args:
        key: Hash of the recipe without its name: equal keys are equal runs.
        values: The dotted keys that the sweep varies, with the values of this point.
        recipe: The whole recipe, named after sweep and key.
    """

    key: str
    values: Mapping[str, Any]
    recipe: Recipe


def points(sweep: SweepRecipe, *, file: str = "", extra: Mapping[str, Any] | None = None) -> list[Point]:
    """All different points, checked, in the order in which they run.

    Args:
        sweep: The search.
        file: Of the sweep, for messages.
        extra: More overrides, such as those of the command line.

    Raises:
        RecipeError: The base recipe, or a point, cannot be run as written; too many points.
    """
    text = read_text(Path(sweep.base))
    found: dict[str, Point] = {}
    for values in combinations(sweep, file=file):
        try:
            recipe = read_recipe(text, {**sweep.overrides, **values, **(extra or {})}, file=sweep.base)
            check_names(recipe, file=sweep.base)
        except RecipeError as error:
            error.add_note(f"in the sweep {file or sweep.name} at the point {describe(values)}")
            raise
        point = _named(sweep.name, values, recipe)
        found.setdefault(point.key, point)
    return list(found.values())


def combinations(sweep: SweepRecipe, *, file: str = "") -> Iterator[dict[str, Any]]:
    """The values of every point, repetitions included: a grid in the order of the file, or draws."""
    if sweep.search == "random":
        random = np.random.default_rng(sweep.seed)
        for _ in range(_few_enough(sweep.points or 0, file)):
            yield {key: draw(values, random) for key, values in sweep.keys.items()}
        return
    lists = [values for values in sweep.keys.values() if isinstance(values, list)]
    _few_enough(math.prod(map(len, lists)), file)
    for row in product(*lists):
        yield dict(zip(sweep.keys, row, strict=True))


def draw(values: list[Any] | Range, random: np.random.Generator) -> Any:
    """One value: any of a list alike, or a number of a range, to six digits.

    Example:
        >>> draw(Range(low=3.0, high=4.0, whole=True), np.random.default_rng(0)) in (3, 4)
        True
    """
    if isinstance(values, list):
        return values[int(random.integers(len(values)))]
    if values.whole:
        return _whole(values, random)
    share = float(random.random())
    low, high = (math.log(values.low), math.log(values.high)) if values.log else (values.low, values.high)
    value = low + share * (high - low)
    return min(max(float(f"{math.exp(value) if values.log else value:.6g}"), values.low), values.high)


def _whole(values: Range, random: np.random.Generator) -> int:
    """Every whole number alike; with `log`, the numbers to which a logarithmic draw is rounded."""
    low, high = int(values.low), int(values.high)
    if not values.log:
        return int(random.integers(low, high + 1))
    return min(max(round(math.exp(random.uniform(math.log(low), math.log(high)))), low), high)


def describe(values: Mapping[str, Any]) -> str:
    """The values of a point in one line.

    Example:
        >>> describe({"prune.sparsity": 0.5, "heads": ["energy"]})
        "prune.sparsity=0.5, heads=['energy']"
    """
    return ", ".join(f"{key}={brief(value)}" for key, value in values.items())


def brief(value: Any) -> str:
    """A value in few words: a section that varies as a whole is known by its source or its name.

    Example:
        >>> brief({"source": "cifar_resnet20", "weights": "resnet20.safetensors"}), brief(0.5)
        ('cifar_resnet20', '0.5')
    """
    name = value.get("source", value.get("name")) if isinstance(value, Mapping) else None
    return str(value if name is None else name)


def _named(sweep: str, values: Mapping[str, Any], recipe: Recipe) -> Point:
    text = recipe.model_copy(update={"name": "point"}).to_yaml()
    key = hashlib.sha256(text.encode()).hexdigest()
    return Point(key, values, recipe.model_copy(update={"name": f"{sweep[:80]}-{key[:12]}"}))


def _few_enough(count: int, file: str) -> int:
    if count > MOST_POINTS:
        raise RecipeError(f"{count:,} points; the limit is {MOST_POINTS:,}: give fewer values", file=file, key="keys")
    return count
