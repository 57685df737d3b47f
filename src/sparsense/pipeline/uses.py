"""Which trainings a run goes through, and which of its sets of samples nothing in it uses."""

from __future__ import annotations

from collections.abc import Iterator

from sparsense.recipe.schema import Recipe
from sparsense.recipe.training import ChosenTrainingSection, TrainingSection
from sparsense.training.objectives import OBJECTIVES


def trainings(recipe: Recipe) -> list[TrainingSection]:
    """The sections that a run goes through, in their order."""
    search = None if recipe.prune is None else recipe.prune.search
    sections = [recipe.train, search, None if recipe.prune is None else recipe.finetune]
    return [section for section in sections if section is not None]


def unused_sets(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Sets that are named and not used, such as by one point of a sweep over objectives; each with the reason."""
    sections = trainings(recipe)
    objectives = {section.objective.name for section in sections if section.objective is not None}
    if recipe.data.outliers is not None and not any(_learns_from_outliers(name) for name in objectives):
        yield "outliers", "no objective of this run learns from outliers"
    judged = recipe.precision.name == "int8" or any(
        isinstance(section, ChosenTrainingSection) and section.select == "val_auroc" for section in sections
    )
    if recipe.data.validation_anomalies is not None and not judged:
        yield "validation_anomalies", "no training has select: val_auroc, and the precision is not int8"


def _learns_from_outliers(objective: str) -> bool:
    return "outliers" in getattr(OBJECTIVES[objective], "needs", ())
