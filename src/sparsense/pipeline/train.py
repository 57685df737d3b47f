"""Train the network of a recipe from scratch."""

from __future__ import annotations

from pathlib import Path

from sparsense.detector import Progress, silent
from sparsense.recipe.schema import Recipe
from sparsense.training.reference import train_reference


def train_recipe(recipe: Recipe, *, output: Path, data_root: str | None = None, progress: Progress = silent) -> Path:
    """Train, and write the weights with their training card.

    Args:
        recipe: Its section `train` says how.
        output: Folder of the results.
        data_root: Folder of the published data sets.
        progress: Called with `(what, done, of)`.

    Returns:
        The weights' file.
    """
    return train_reference(recipe, output, data_root=data_root, report=progress)
