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
from sparsense.networks import Network
from sparsense.networks.learnt_behind import encoding_metadata
from sparsense.networks.tensors import with_remembered
from sparsense.recipe.schema import Recipe, SourceSection
from sparsense.recipe.text import write_yaml
from sparsense.training.chosen import how_chosen
from sparsense.training.evaluate import accuracy
from sparsense.training.fit import remembered
from sparsense.training.initial import open_network
from sparsense.training.loop import Report
from sparsense.training.run import Samples, make_train_run, run_training, training_identity


def train_reference(
    recipe: Recipe, folder: Path, *, data_root: str | None = None, report: Report = lambda *_: None
) -> Path:
    """Train the network of a recipe as its section `train` says, from the weights that `network.weights` names.

    A run that was killed goes on where it was, when it is started again. What is kept for that goes last: weights and
    card are in their place then.

    Args:
        recipe: Needs the sections `network`, `data` and `train`; the others are not looked at.
        folder: Gets `NAME.safetensors`, which `load_network(source, weights=...)` reads, the training card
            `NAME.json` (recipe, data hashes, seed, versions, losses, and for classifiers accuracies: null for a set
            without labels), and `NAME.csv`, a row per epoch.
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
    root = first_data_root(data_root, recipe.data_root)
    network = open_network(recipe.network, root, recipe.export.layout, seed=recipe.seed)
    network = network.for_columns(data["train"].columns)
    weights, samples = folder / f"{recipe.name}.safetensors", Samples(data["train"], **loaded)
    checkpoint, identity = weights.with_suffix(".training.safetensors"), training_identity(network, recipe, samples)
    training = make_train_run(network, recipe, samples)
    losses = run_training(training, recipe, checkpoint, identity=identity, beside=folder / recipe.name, report=report)
    network.remembered = remembered(training)
    if training.engine.rank == 0:
        written = _write(weights, network)
        card = _card(recipe, network, data | _present(loaded), losses) | how_chosen(training) | written
        with atomic_write(weights.with_suffix(".json")) as card_file:
            card_file.write_text(json.dumps(card, indent=1), "utf-8")
        checkpoint.unlink(missing_ok=True)
    return weights


def _write(weights: Path, network: Network) -> dict[str, str]:
    """Put the weights in their place; the card of older ones, which is not theirs, goes before."""
    tensors = with_remembered(network.module.state_dict(), network.remembered)
    columns = encoding_metadata(network.preprocessing.columns)
    content = save({name: tensor.clone() for name, tensor in tensors.items()}, columns)
    with atomic_write(weights) as weights_file:
        weights_file.write_bytes(content)
        weights.with_suffix(".json").unlink(missing_ok=True)
    return {"weights_sha256": hashlib.sha256(content).hexdigest()}


def _present(loaded: dict[str, Dataset | None]) -> dict[str, Dataset]:
    return {key: dataset for key, dataset in loaded.items() if dataset is not None}


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


def _accuracies(network: Network, data: dict[str, Dataset]) -> dict[str, float | None]:
    """Of classifiers, on what is not anomalous; None for a set without labels."""
    if network.task != "classifier":
        return {}
    sets = {split: data[split] for split in ("train", "calibration", "test")}
    return {
        split: None if dataset.labels is None else round(accuracy(network, dataset), 6)
        for split, dataset in sets.items()
    }
