"""What a recipe says about training, as a run of the one loop."""

from __future__ import annotations

import hashlib
import math
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsense import __version__
from sparsense.data import Dataset
from sparsense.data.dataset import stratified_order
from sparsense.data.splits import last_windows
from sparsense.errors import InputError
from sparsense.networks import Network
from sparsense.networks.network import behaviour
from sparsense.recipe.schema import Recipe
from sparsense.recipe.training import ChosenTrainingSection, SearchSection, TrainingSection
from sparsense.training.alive import SHUT, check_alive
from sparsense.training.batches import Augmented, Batches
from sparsense.training.engine import Engine, device_of, make_engine
from sparsense.training.fit import Kept, fit
from sparsense.training.logs import csv_log, tensorboard_log
from sparsense.training.loop import Report, Training
from sparsense.training.objectives import Context, Objective, make_objective
from sparsense.training.selection import HeldOut, Selection
from sparsense.training.settings import TrainingSettings
from sparsense.training.start import start_at_mean
from sparsense.training.suitable import BY_TASK, check_suitable, objective_name
from sparsense.training.warm_up import WarmUp

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

    def facts(self) -> list[str]:
        """What numbers that are learnt from them depend on: hashes of content, and where windows lie in time."""
        sets = {name: dataset for name, dataset in vars(self).items() if dataset is not None}
        return [
            f"{name} {dataset.sha256()} {[] if dataset.spans is None else dataset.spans.tolist()}"
            for name, dataset in sets.items()
        ]


def run_training(
    training: Training[Any],
    recipe: Recipe,
    checkpoint: Path,
    *,
    identity: str,
    beside: Path,
    report: Report = lambda *_: None,
) -> list[float]:
    """Go through the run of a recipe's section `train`.

    Args:
        training: See `make_train_run`.
        recipe: The recipe.
        checkpoint: Written after every epoch; to be removed when the result is in its place.
        identity: See `training_identity`.
        beside: A path without suffix: `.csv` gets the log, `.last-good.safetensors` what is left when it diverges.
        report: See `sparsense.training.loop.train`.

    Returns:
        The mean loss of each epoch.

    Raises:
        TrainingError: It diverged, or left a network that answers the same to every sample.
    """
    assert recipe.train is not None
    beside.parent.mkdir(parents=True, exist_ok=True)
    logs = [csv_log(beside.with_name(f"{beside.name}.csv"))]
    if recipe.train.tensorboard:
        logs.append(tensorboard_log(beside.with_name(f"{beside.name}.tensorboard")))
    kept = Kept(checkpoint, identity, beside.with_name(f"{beside.name}.last-good.safetensors"))
    assert isinstance(training.batches, Batches)
    alive = partial(check_alive, training.module, training.batches.inputs, rate=recipe.train.learning_rate)
    losses = fit(training, kept, logs=[*logs, lambda _: alive(same=SHUT)], report=report)
    alive()
    return losses


def training_identity(network: Network, recipe: Recipe, samples: Samples) -> str:
    """A hash of everything that the numbers of a training depend on.

    Sections `network` and `train`, the seed, all samples (what is held out is a part of them), preprocessing, initial
    weights and what the network makes of them, versions, threads. What is only measured on is no part of it.

    Args:
        network: Before its training.
        recipe: With a section `train`.
        samples: What is learnt and chosen from.
    """
    text = recipe.model_dump_json(include={"seed", "network", "train"})
    facts = [text, __version__, torch.__version__, str(torch.get_num_threads())]
    facts += [repr(network.preprocessing), behaviour(network)]
    facts += samples.facts()
    digest = hashlib.sha256("\n".join(facts).encode())
    for name, tensor in network.module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
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
    seen, selection = _choice(network, samples, section)
    if network.task == "reconstruction" and recipe.network.weights is None:
        start_at_mean(network.module, network.seen(seen.inputs))
    context = Context(preprocessing=network.preprocessing, outliers=_tensor(network, samples.outliers))
    engine = make_engine(accelerator=section.accelerator, devices=section.devices, precision=section.precision)
    parts = training_parts(network, seen, section, seed=recipe.seed, context=context)
    return Training(network.module, *parts, selection=selection, engine=engine)


def make_search_run(
    network: Network, module: nn.Module, samples: Samples, section: SearchSection, *, seed: int,
    teacher: nn.Module | None = None,
) -> Training[Any]:  # fmt: skip
    """The run of a recipe's section `prune.search`, not begun yet; the best mask is kept, by the rule of the section.

    Args:
        network: The dense one.
        module: A `MaskSearch` of it.
        samples: No test sample is among them.
        section: How.
        seed: Of order, augmentation and what the objective draws.
        teacher: For `distillation`.

    Raises:
        TrainingError: The objective or the choice of a mask lacks what it needs.
    """
    seen, selection = _choice(network, samples, section)
    engine = make_engine(accelerator=section.accelerator, precision=section.precision)
    context = Context(_beside(teacher, engine), network.preprocessing, _tensor(network, samples.outliers))
    objective, batches, settings = training_parts(network, seen, section, seed=seed, context=context)
    if warm := _warm_up(section):
        objective = WarmUp(make_objective(BY_TASK[network.task], {}, context), objective, epochs=warm)
    return Training(module, objective, batches, settings, selection=selection, engine=engine)


def _warm_up(section: SearchSection) -> int:
    """Epochs; the published search for outlier exposure begins with a tenth of plain cross entropy."""
    if section.warm_up is not None:
        return section.warm_up
    published = section.objective is not None and section.objective.name == "outlier_exposure"
    return math.ceil(section.epochs / 10) if published else 0


def _choice(network: Network, samples: Samples, section: ChosenTrainingSection) -> tuple[Dataset, Selection | None]:
    """The samples that are trained on, and what chooses an epoch by those that are not."""
    seen, unseen = hold_out(samples.train, section.validation)
    if unseen is None:
        return seen, None
    held = held_out(unseen, network, anomalies=_tensor(network, samples.validation_anomalies))
    return seen, Selection(section.select, held, patience=section.patience)


def held_out(unseen: Dataset, network: Network, *, anomalies: Tensor | None = None) -> HeldOut:
    """What chooses an epoch, of samples that are not trained on."""
    batch = Batches.of(labelled(unseen, network), network.preprocessing, batch_size=1)
    return HeldOut(batch.inputs, batch.labels, anomalies)


def hold_out(dataset: Dataset, share: float) -> tuple[Dataset, Dataset | None]:
    """The samples that are trained on, and a share of them that is not, the same in every run.

    The share is drawn by class; of windows of a series it is the last in time, and no time step is in both.

    Raises:
        InputError: Nothing would be left to train on.
    """
    if not share:
        return dataset, None
    if dataset.spans is not None:
        before, last = last_windows(dataset.spans, share)
        return dataset.subset(before), dataset.subset(last)
    labels = np.zeros(len(dataset), np.int64) if dataset.labels is None else dataset.labels
    order = stratified_order(labels, HOLD_OUT_SEED)
    count = max(1, round(share * len(order)))
    if count >= len(order):
        raise InputError(
            f"holding out a share of {share:g} of {len(order)} training samples of {dataset.name!r} leaves none to "
            "train on; expected more samples, or a smaller `validation`"
        )
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
    engine = make_engine(accelerator=section.accelerator, precision=section.precision)
    context = context or Context(preprocessing=network.preprocessing)
    context = replace(context, teacher=_beside(context.teacher, engine))
    parts = training_parts(network, dataset, section, seed=seed, context=context)
    return Training(module, *parts, engine=engine)


def _beside(teacher: nn.Module | None, engine: Engine) -> nn.Module | None:
    """The teacher on the engine's device; the given one stays where it is."""
    if teacher is None or engine.device == device_of(teacher):
        return teacher
    return deepcopy(teacher).to(engine.device)


def training_parts(
    network: Network, dataset: Dataset, section: TrainingSection, *, seed: int, context: Context
) -> tuple[Objective[Any], Batches, TrainingSettings]:
    """Objective, batches and settings of a section."""
    check_suitable(network, dataset, section)
    options = {} if section.objective is None else section.objective.options
    batches = Batches.of(
        labelled(dataset, network),
        network.preprocessing,
        batch_size=section.batch_size,
        augment=section.augment,
        seed=seed,
    )
    if section.augment and isinstance(context.outliers, Tensor):
        context = replace(context, outliers=Augmented(context.outliers, section.augment))
    settings = {
        key: getattr(section, key) for key in ("epochs", "learning_rate", "optimizer", "schedule", "weight_decay")
    }
    return (
        make_objective(objective_name(network, section), options, context),
        batches,
        TrainingSettings(**settings, seed=seed),
    )


def labelled(dataset: Dataset, network: Network) -> Dataset:
    """The same samples with a label that nobody looks at, where an autoencoder's have none."""
    if dataset.labels is not None or network.task == "classifier":
        return dataset
    return replace(dataset, labels=np.zeros(len(dataset), np.int64))


def _tensor(network: Network, dataset: Dataset | None) -> Tensor | None:
    """As the network sees them."""
    return None if dataset is None else network.seen(dataset.inputs)
