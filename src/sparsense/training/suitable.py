"""What a network cannot be trained for, told before the first step."""

from __future__ import annotations

from sparsense.data import Dataset
from sparsense.errors import InputError, TrainingError
from sparsense.networks import Network
from sparsense.networks.network import check_forward
from sparsense.recipe.training import TrainingSection
from sparsense.training.objectives import OBJECTIVES

BY_TASK = {"classifier": "cross_entropy", "reconstruction": "reconstruction"}


def check_suitable(network: Network, dataset: Dataset, section: TrainingSection) -> None:
    """Refuse an objective for networks of the other task, and labels that a classifier has no output for.

    Args:
        network: That is to be trained.
        dataset: That it is to be trained on.
        section: How.

    Raises:
        TrainingError: With what was expected and what was found.
        InputError: A classifier's samples have no labels.
    """
    name = objective_name(network, section)
    task = getattr(OBJECTIVES[name], "task", network.task)
    if task != network.task:
        raise TrainingError(
            f"training objective {name!r} is for a {task} network, and {network.source!r} is a {network.task} one; "
            f"take another objective, such as {BY_TASK[network.task]!r}, or set network.task where it is wrong"
        )
    if network.task == "classifier":
        _check_labels(network, dataset)


def objective_name(network: Network, section: TrainingSection) -> str:
    """Of the section, or the usual one of the network's task."""
    return BY_TASK[network.task] if section.objective is None else section.objective.name


def _check_labels(network: Network, dataset: Dataset) -> None:
    if dataset.labels is None:
        raise InputError(f"training on {dataset.name!r}: it has no labels")
    classes, low, high = check_forward(network).shape[1], int(dataset.labels.min()), int(dataset.labels.max())
    if low < 0 or high >= classes:
        raise TrainingError(
            f"training on {dataset.name!r}: network {network.source!r} has {classes} outputs, so labels from 0 to "
            f"{classes - 1} are expected; found {low} to {high}. Make the network for {max(high, 0) + 1} classes, "
            "number the labels from 0, or choose samples with the option classes"
        )
