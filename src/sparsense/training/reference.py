"""A network trained from a recipe: weights in one file, how they came about in another."""

from __future__ import annotations

import hashlib
import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from sparsense import __version__
from sparsense.data import SOURCES, Dataset, first_data_root
from sparsense.errors import RecipeError
from sparsense.files import atomic_write
from sparsense.networks import Network, load_network
from sparsense.recipe.schema import Recipe, SourceSection
from sparsense.recipe.text import write_yaml
from sparsense.recipe.training import TrainingSection
from sparsense.training.batches import Batches
from sparsense.training.evaluate import accuracy
from sparsense.training.loop import Report, Training, seeded
from sparsense.training.objectives import Context, make_objective
from sparsense.training.settings import TrainingSettings

BY_TASK = {"classifier": "cross_entropy", "reconstruction": "reconstruction"}


def train_reference(
    recipe: Recipe, folder: Path, *, data_root: str | None = None, report: Report = lambda *_: None
) -> Path:
    """Train the network of a recipe as its section `train` says, from its initial weights.

    Args:
        recipe: Needs the sections `network`, `data` and `train`; the others are not looked at.
        folder: Gets `NAME.safetensors`, which `load_network(source, weights=...)` reads, and the training card
            `NAME.json`: recipe, data hashes, seed, versions, losses and accuracies.
        data_root: Where the published data sets lie.
        report: See `sparsense.training.loop.train`.

    Returns:
        The file of weights.

    Raises:
        RecipeError: The recipe has no section `train`.
        TrainingError: The training diverged.
    """
    if recipe.train is None:
        raise RecipeError("there is nothing to train: the recipe has no section 'train'", key="train")
    data = {split: _load(getattr(recipe.data, split), recipe, data_root) for split in ("train", "calibration", "test")}
    network = _initial(recipe)
    losses = train_section(network, data["train"], recipe.train, seed=recipe.seed, report=report)
    content = save({name: tensor.clone() for name, tensor in network.module.state_dict().items()})
    card = _card(recipe, network, data, losses) | {"weights_sha256": hashlib.sha256(content).hexdigest()}
    weights = folder / f"{recipe.name}.safetensors"
    with atomic_write(weights) as weights_file, atomic_write(weights.with_suffix(".json")) as card_file:
        weights_file.write_bytes(content)
        card_file.write_text(json.dumps(card, indent=1), "utf-8")
    return weights


def train_section(
    network: Network,
    dataset: Dataset,
    section: TrainingSection,
    *,
    seed: int,
    report: Report = lambda *_: None,
) -> list[float]:
    """Train a network in place, as a section of a recipe says; the mean loss per epoch."""
    training = make_training(network, network.module, dataset, section, seed=seed)
    while not training.done:
        training.epoch(report=report)
    return training.losses


def make_training(
    network: Network,
    module: nn.Module,
    dataset: Dataset,
    section: TrainingSection,
    *,
    seed: int,
    context: Context | None = None,
) -> Training[Any]:
    """The training run that a section of a recipe describes, not begun yet.

    Args:
        network: Its preprocessing and task count.
        module: What is trained: the network's module, or one around it.
        dataset: With labels for classifiers.
        section: How.
        seed: Of order, augmentation and what the module draws.
        context: What the objective may need besides.
    """
    context = context or Context(preprocessing=network.preprocessing)
    if section.objective is None:
        objective = make_objective(BY_TASK[network.task], {}, context)
    else:
        objective = make_objective(section.objective.name, section.objective.options, context)
    batches = Batches.of(
        dataset if dataset.labels is not None or network.task == "classifier" else _unlabelled(dataset),
        network.preprocessing,
        batch_size=section.batch_size,
        augment=section.augment,
        seed=seed,
    )
    settings = {
        key: getattr(section, key) for key in ("epochs", "learning_rate", "optimizer", "schedule", "weight_decay")
    }
    return Training(module, objective, batches, TrainingSettings(**settings, seed=seed))


def _unlabelled(dataset: Dataset) -> Dataset:
    """The same samples with a label that nobody looks at."""
    return Dataset(dataset.name, dataset.inputs, np.zeros(len(dataset), np.int64))


def _initial(recipe: Recipe) -> Network:
    """The network before training, the same for the same seed."""
    section = recipe.network
    with seeded(recipe.seed):
        return load_network(
            section.source,
            weights=section.weights,
            options=section.options,
            preprocessing=section.preprocessing.build() if section.preprocessing else None,
            input_shape=tuple(section.input_shape) if section.input_shape else None,
            task=section.task,
        )


def _load(section: SourceSection, recipe: Recipe, data_root: str | None) -> Dataset:
    source, options = SOURCES[section.source], dict(section.options)
    if "data_root" in source.options:
        options = {"data_root": first_data_root(data_root, recipe.data_root)} | options
    if section.limit is not None:
        options = {"limit": section.limit, "seed": recipe.seed} | options
    return source(section.split, **options)


def _card(recipe: Recipe, network: Network, data: dict[str, Dataset], losses: list[float]) -> dict[str, Any]:
    text = write_yaml(recipe.model_dump(include={"name", "seed", "network", "data", "train"}))
    return {
        "format": 1,
        "name": recipe.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": {"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()},
        "seed": recipe.seed,
        "versions": {
            "sparsense": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "data": {
            split: {"name": dataset.name, "count": len(dataset), "sha256": dataset.sha256()}
            for split, dataset in data.items()
        },
        "parameters": network.parameters,
        "losses": [round(loss, 6) for loss in losses],
        "accuracy": {split: round(accuracy(network, dataset), 6) for split, dataset in data.items()},
    }
