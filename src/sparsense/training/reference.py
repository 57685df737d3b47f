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

from sparsense import __version__
from sparsense.data import SOURCES, Dataset, first_data_root
from sparsense.errors import RecipeError
from sparsense.files import atomic_write
from sparsense.networks import Network, load_network
from sparsense.networks.tensors import with_remembered
from sparsense.recipe.schema import Recipe, SourceSection
from sparsense.recipe.text import write_yaml
from sparsense.training.evaluate import accuracy
from sparsense.training.fit import remembered
from sparsense.training.loop import Report, seeded
from sparsense.training.run import Samples, how_chosen, make_train_run, run_training


def train_reference(
    recipe: Recipe, folder: Path, *, data_root: str | None = None, report: Report = lambda *_: None
) -> Path:
    """Train the network of a recipe as its section `train` says, from its initial weights.

    A run that was killed goes on where it was, when it is started again.

    Args:
        recipe: Needs the sections `network`, `data` and `train`; the others are not looked at.
        folder: Gets `NAME.safetensors`, which `load_network(source, weights=...)` reads, the training card
            `NAME.json` (recipe, data hashes, seed, versions, losses and accuracies), and `NAME.csv`, a row per epoch.
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
    data = {split: part.named_like(data["train"]) for split, part in data.items()}
    others = {key: getattr(recipe.data, key) for key in ("outliers", "validation_anomalies")}
    loaded = {key: section and _load(section, recipe, data_root) for key, section in others.items()}
    network = initial_network(recipe).for_columns(data["train"].columns)
    weights = folder / f"{recipe.name}.safetensors"
    training = make_train_run(network, recipe, Samples(data["train"], **loaded))
    checkpoint = weights.with_suffix(".training.safetensors")
    losses = run_training(training, recipe, checkpoint, beside=folder / recipe.name, report=report)
    network.remembered = remembered(training)
    if training.engine.rank == 0:
        _write(weights, network, _card(recipe, network, data | _present(loaded), losses) | how_chosen(training))
    return weights


def _write(weights: Path, network: Network, card: dict[str, Any]) -> None:
    tensors = with_remembered(network.module.state_dict(), network.remembered)
    content = save({name: tensor.clone() for name, tensor in tensors.items()})
    card |= {"weights_sha256": hashlib.sha256(content).hexdigest()}
    with atomic_write(weights) as weights_file, atomic_write(weights.with_suffix(".json")) as card_file:
        weights_file.write_bytes(content)
        card_file.write_text(json.dumps(card, indent=1), "utf-8")


def _present(loaded: dict[str, Dataset | None]) -> dict[str, Dataset]:
    return {key: dataset for key, dataset in loaded.items() if dataset is not None}


def initial_network(recipe: Recipe) -> Network:
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
        "accuracy": _accuracies(network, data),
    }


def _accuracies(network: Network, data: dict[str, Dataset]) -> dict[str, float]:
    """Of classifiers, on what is not anomalous."""
    if network.task != "classifier":
        return {}
    return {split: round(accuracy(network, data[split]), 6) for split in ("train", "calibration", "test")}
