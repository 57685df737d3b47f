"""docs/recipes.md is what the schema says, and what it shows can be run."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from sparsense.criteria import CRITERIA
from sparsense.recipe.load import read_recipe
from sparsense.recipe.names import check_names
from sparsense.recipe.prune import PruneSection
from sparsense.recipe.text import read_yaml

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
LEAST, LINES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def generator() -> ModuleType:
    spec = spec_from_file_location("document_recipes", ROOT / "scripts" / "document_recipes.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date() -> None:
    assert generator().document() == PAGE, "run python scripts/document_recipes.py"


@pytest.mark.parametrize("line", LINES.splitlines())
def test_every_line_it_shows_is_a_recipe(line: str) -> None:
    fields = read_yaml(line)
    needed = {"prune.criterion": "score_fisher"} if "energy" in line else {}
    recipe = check_names(read_recipe(LEAST, {**fields, **needed}))
    assert recipe.name == "mine"


def test_every_key_is_there() -> None:
    assert all(f"| `{key}` |" in PAGE for key in PruneSection.model_fields)
    assert all(f"| `{name}` |" in PAGE for name in CRITERIA)


def test_a_key_without_a_description_is_refused() -> None:
    class Silent(BaseModel):
        key: int = 1

    with pytest.raises(ValueError, match=r"prune\.key has no description"):
        generator()._row("key", Silent.model_fields["key"], "prune")
