"""What a recipe says about training, as a run of the one loop."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsense import __version__
from sparsense.data import Dataset
from sparsense.data.dataset import stratified_order
from sparsense.networks import Network
from sparsense.recipe.schema import Recipe
from sparsense.recipe.training import TrainingSection
from sparsense.training.batches import Batches
from sparsense.training.engine import make_engine
from sparsense.training.fit import Kept, fit
from sparsense.training.logs import csv_log, tensorboard_log
from sparsense.training.loop import Report, Training
from sparsense.training.objectives import Context, Objective, make_objective
from sparsense.training.selection import HeldOut, Selection
from sparsense.training.settings import TrainingSettings

BY_TASK = {"classifier": "cross_entropy", "reconstruction": "reconstruction"}
HOLD_OUT_SEED = 1  # fixed, so that runs with other seeds are judged on the same samples


@dataclass(frozen=True)
class Samples:
    """What a network is trained with.

    Args:
        train: Gone through in every epoch, less what is held out.
        outliers: For objectives that learn from anomalies.
        validation_anomalies: For an epoch chosen by labels.
    """

    train: Dataset
    outliers: Dataset | None = None
    validation_anomalies: Dataset | None = None


def run_training(
    training: Training[Any], recipe: Recipe, checkpoint: Path, *, beside: Path, report: Report = lambda *_: None
) -> list[float]:
    """Go through the run of a recipe's section `train`.

    Args:
        training: See `make_train_run`.
        recipe: The recipe.
        checkpoint: Kept until the run is done.
        beside: A path without suffix: `.csv` gets the log, `.last-good.safetensors` what is left when it diverges.
        report: See `sparsense.training.loop.train`.

    Returns:
        The mean loss of each epoch.
    """
    assert recipe.train is not None
    beside.parent.mkdir(parents=True, exist_ok=True)
    logs = [csv_log(beside.with_name(f"{beside.name}.csv"))]
    if recipe.train.tensorboard:
        logs.append(tensorboard_log(beside.with_name(f"{beside.name}.tensorboard")))
    kept = Kept(checkpoint, _identity(training, recipe), beside.with_name(f"{beside.name}.last-good.safetensors"))
    return fit(training, kept, logs=logs, report=report)


def _identity(training: Training[Any], recipe: Recipe) -> str:
    """A hash of everything that the numbers depend on: recipe, samples, initial weights, versions, threads."""
    text = recipe.model_dump_json(include={"seed", "network", "data", "train"})
    digest = hashlib.sha256(f"{text}{__version__}{torch.__version__}{torch.get_num_threads()}".encode())
    assert isinstance(training.batches, Batches)
    for tensor in (training.batches.inputs, training.batches.labels, *training.module.state_dict().values()):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def make_train_run(network: Network, recipe: Recipe, samples: Samples) -> Training[Any]:
    """The run of a recipe's section `train`, not begun yet.

    Raises:
        TrainingError: The objective or the choice of an epoch lacks what it needs.
        MissingExtraError: Lightning Fabric is asked for and not installed.
    """
    section = recipe.train
    assert section is not None
    seen, unseen = hold_out(samples.train, section.validation)
    tensors = {key: _tensor(network, getattr(samples, key)) for key in ("outliers", "validation_anomalies")}
    context = Context(preprocessing=network.preprocessing, outliers=tensors["outliers"])
    selection = None
    if unseen is not None:
        batch = Batches.of(_labelled(unseen, network), network.preprocessing, batch_size=1)
        held = HeldOut(batch.inputs, batch.labels, tensors["validation_anomalies"])
        selection = Selection(section.select, held, patience=section.patience)
    engine = make_engine(accelerator=section.accelerator, devices=section.devices, precision=section.precision)
    parts = training_parts(network, seen, section, seed=recipe.seed, context=context)
    return Training(network.module, *parts, selection=selection, engine=engine)


def hold_out(dataset: Dataset, share: float) -> tuple[Dataset, Dataset | None]:
    """The samples that are trained on, and a share of them (by class) that is not; the same in every run."""
    if not share:
        return dataset, None
    labels = np.zeros(len(dataset), np.int64) if dataset.labels is None else dataset.labels
    order = stratified_order(labels, HOLD_OUT_SEED)
    count = max(1, round(share * len(order)))
    return dataset.subset(np.sort(order[count:])), dataset.subset(np.sort(order[:count]))


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
    return Training(module, *training_parts(network, dataset, section, seed=seed, context=context))


def training_parts(
    network: Network, dataset: Dataset, section: TrainingSection, *, seed: int, context: Context
) -> tuple[Objective[Any], Batches, TrainingSettings]:
    """Objective, batches and settings of a section."""
    name, options = BY_TASK[network.task], dict[str, Any]()
    if section.objective is not None:
        name, options = section.objective.name, section.objective.options
    batches = Batches.of(
        _labelled(dataset, network),
        network.preprocessing,
        batch_size=section.batch_size,
        augment=section.augment,
        seed=seed,
    )
    settings = {
        key: getattr(section, key) for key in ("epochs", "learning_rate", "optimizer", "schedule", "weight_decay")
    }
    return make_objective(name, options, context), batches, TrainingSettings(**settings, seed=seed)


def _labelled(dataset: Dataset, network: Network) -> Dataset:
    """The same samples with a label that nobody looks at, where an autoencoder's have none."""
    if dataset.labels is not None or network.task == "classifier":
        return dataset
    return Dataset(dataset.name, dataset.inputs, np.zeros(len(dataset), np.int64))


def _tensor(network: Network, dataset: Dataset | None) -> Tensor | None:
    """As the network sees them."""
    if dataset is None:
        return None
    return torch.from_numpy(network.preprocessing.apply(network.preprocessing.arrange(dataset.inputs)))


def how_chosen(training: Training[Any]) -> dict[str, Any]:
    """How the epoch was chosen, for the card."""
    if training.selection is None:
        return {"select": "last"}
    chosen = training.selection
    return {
        "select": chosen.rule,
        "uses_labels": chosen.rule == "val_auroc",
        "epoch": chosen.best_epoch + 1,
        "values": [round(value, 6) for value in chosen.values],
    }
