"""The main job: from a recipe to a folder with a calibrated detector and a report of what it costs and catches."""

from sparsense.pipeline.prune_recipe import analyse_recipe, preview_recipe, prune_recipe
from sparsense.pipeline.run import run_recipe
from sparsense.pipeline.train import train_recipe

__all__ = ["analyse_recipe", "preview_recipe", "prune_recipe", "run_recipe", "train_recipe"]
