"""Every recipe that comes along: its names are known, it survives a round trip, and its file is named after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsense.recipe import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} >= {"quickstart", "cifar10-resnet20"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_is_known(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name.replace("_", "-") == path.stem
    (tmp_path / "again.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(tmp_path / "again.yaml") == recipe
