"""CIFAR-10 classifiers fine-tuned with auxiliary outliers, dense and with half of their weights zero."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_rows.measure import run
from sparsense.benchmark.metrics import auroc, fpr95
from sparsense.data import SOURCES, Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.networks import Network, load_network
from sparsense.pruning.batchnorm import reestimate_batch_norm
from sparsense.pruning.weights import select_weights
from sparsense.recording.passes import saliency_of
from sparsense.training.batches import Augmented, Batches
from sparsense.training.engine import make_engine
from sparsense.training.evaluate import predict
from sparsense.training.objectives import Context, make_objective
from sparsense.training.objectives.energies import energy
from sparsense.training.settings import TrainingSettings

IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
NETWORKS = {"resnet20": ("cifar_resnet20", "resnet20_cifar10", IMAGENET),
            "wrn16_2": ("wide_resnet16_2", "wrn16_2_cifar10", CIFAR)}  # fmt: skip
FULL_EPOCHS, FULL_BATCH = 20, 64  # published for GReg, of all training images
RATE = 1e-3  # of those that were tried on ResNet-8 (1e-3, 5e-3, 2e-2) the one that keeps accuracy best
WEIGHT = 0.1  # of slopes; tried on ResNet-8: 1, 0.3, 0.1, 0.01
SETS = {"svhn": ("svhn", "test"), "textures": ("textures", "test"), "tiny_imagenet": ("tiny_imagenet", "test")}
OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "cross entropy": ("cross_entropy", {}),
    "outlier exposure": ("outlier_exposure", {}),
    "energy fine-tuning": ("energy_fine_tuning", {}),
    "GReg": ("gradient_regularization", {"gradient_weight": WEIGHT}),
    "GReg, released scaling": ("gradient_regularization", {"scaling": "released"}),
    "GReg+": ("gradient_regularization", {"gradient_weight": WEIGHT, "sampling": "clusters"}),
}
BASELINES = {"energy fine-tuning": "cross entropy", "outlier exposure": "cross entropy",
             "GReg": "energy fine-tuning", "GReg, released scaling": "energy fine-tuning",
             "GReg+": "energy fine-tuning"}  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """Of a network: AUROC and FPR95 (both in %) per set of anomalies, by the energy, and accuracy."""

    auroc: dict[str, float]
    fpr95: dict[str, float]
    accuracy: float


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Network]]:
    """Pretrained networks, dense and with half of their weights zero; batch norms measured again."""
    train_set = training_images(options)
    for name, (source, file, preprocessing) in NETWORKS.items():
        weights = Path(options.data_root, "nets", f"{file}.safetensors")
        network = load_network(source, weights=weights, preprocessing=preprocessing)
        yield f"{name} dense", network
        yield f"{name} pruned", pruned(network, network.seen(train_set.subset(1000).inputs))


def pruned(network: Network, inputs: Tensor) -> Network:
    """The smaller half of the weights is zero."""
    module = deepcopy(network.module)
    select_weights(module, saliency_of(module, "magnitude"), sparsity=0.5).apply_(module)
    reestimate_batch_norm(module, torch.split(inputs, 128))
    return replace(network, module=module.eval())


def zeros_kept(module: nn.Module) -> Callable[[], None]:
    """A function that makes zero again what is zero now."""
    kept = [(weight, weight != 0) for weight in module.parameters() if weight.ndim > 1]

    @torch.no_grad()
    def again() -> None:
        for weight, mask in kept:
            weight.mul_(mask.to(weight.device))

    return again


def training_images(options: argparse.Namespace) -> Dataset:
    return SOURCES["cifar10"]("train", limit=at_most(options.train, options), seed=0, data_root=options.data_root)


def at_most(count: int, options: argparse.Namespace) -> int | None:
    """So many images; None: all, in full runs."""
    return None if options.full else count


def solved(network: Network, seed: int, options: argparse.Namespace) -> Iterator[tuple[str, Judged]]:
    """Every objective that is asked for, from the same weights."""
    asked_for = ["not fine-tuned", *OBJECTIVES] if options.methods is None else options.methods
    if "not fine-tuned" in asked_for:
        yield "not fine-tuned", judged(network, options)
    epochs, size = (FULL_EPOCHS, FULL_BATCH) if options.full else (options.epochs, options.batch_size)
    known = training_images(options)
    outliers = SOURCES["tiny_imagenet"]("auxiliary", data_root=options.data_root)
    for name, (objective, asked) in OBJECTIVES.items():
        if name not in asked_for:
            continue
        tuned = replace(network, module=deepcopy(network.module))
        given = network.seen(outliers.inputs)
        margins = margins_of(network, known, given) if objective in ("energy_fine_tuning", GREG) else {}
        context = Context(outliers=Augmented(given, ["shift", "flip"]))
        batches = Batches.of(known, network.preprocessing, batch_size=size, augment=["shift", "flip"], seed=seed)
        made, zeros = make_objective(objective, {**asked, **margins}, context), zeros_kept(tuned.module)
        settings = TrainingSettings(epochs, RATE, "sgd", "cosine", seed=seed)
        engine = make_engine(accelerator=options.accelerator, precision=options.precision)
        run(tuned.module, made, batches, settings, engine, after_step=zeros)
        yield name, judged(tuned, options)


GREG = "gradient_regularization"


def margins_of(network: Network, known: Dataset, outliers: Tensor) -> dict[str, float]:
    """In the network's own unit: the lower quartile of the samples' energies, the upper one of the outliers'."""
    inside = energies(network, known.subset(1000).inputs)
    with torch.no_grad():
        outside = energy(network.module(outliers[:1000])).numpy()
    inner, outer = float(np.quantile(inside, 0.25)), float(np.quantile(outside, 0.75))
    return {"margin_in": min(inner, outer - 1e-3), "margin_out": outer}


def energies(network: Network, images: Any) -> Any:
    """Of every image."""
    return energy(torch.from_numpy(predict(network, network.preprocessing.arrange(images)))).numpy()


def judged(network: Network, options: argparse.Namespace) -> Judged:
    """On images that nothing was trained on."""
    test = SOURCES["cifar10"]("test_all", limit=at_most(2 * options.test, options), seed=0, data_root=options.data_root)
    logits = predict(network, network.preprocessing.arrange(test.inputs))
    usual = energy(torch.from_numpy(logits)).numpy()
    limit, found = at_most(options.test, options), {}
    for name, (source, split) in SETS.items():
        images = SOURCES[source](split, limit=limit, seed=0, data_root=options.data_root).inputs
        found[name] = energies(network, images)
    return Judged(
        {name: 100 * auroc(usual, values) for name, values in found.items()},
        {name: 100 * fpr95(usual, values) for name, values in found.items()},
        100 * float((logits.argmax(1) == test.labels).mean()),
    )
