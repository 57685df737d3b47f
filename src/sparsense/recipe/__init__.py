"""A recipe: one short YAML file that says everything about one reproducible run."""

from sparsense.recipe.load import load_recipe, parse_override
from sparsense.recipe.schema import Recipe

__all__ = ["Recipe", "load_recipe", "parse_override"]
