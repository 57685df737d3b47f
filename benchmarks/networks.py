"""Pretrained networks of the published sets: what they know, and what is strange to them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sparsense.data import SOURCES, Dataset
from sparsense.data.dataset import shuffled
from sparsense.data.preprocessing import Preprocessing
from sparsense.networks import Network, load_network

IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
HOUSE_NUMBERS = Preprocessing(mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970))
HELD_OUT = 1000  # of a set whose training images are not published


@dataclass(frozen=True)
class Case:
    """A network with its data sets; `far` ones look different, `near` ones show other things in the same style."""

    source: str
    weights: str
    preprocessing: Preprocessing | None = None
    known: str = "cifar10"
    far: tuple[str, ...] = ("svhn", "textures")
    near: tuple[str, ...] = ("tiny_imagenet",)

    @property
    def anomalies(self) -> tuple[str, ...]:
        return self.far + self.near


GREY = ("fashion_mnist", "notmnist", "kmnist")
NETWORKS = {
    "resnet20": Case("cifar_resnet20", "resnet20_cifar10", IMAGENET),
    "resnet56": Case("cifar_resnet56", "resnet56_cifar10", IMAGENET),
    "wrn16_2": Case("wide_resnet16_2", "wrn16_2_cifar10", CIFAR),
    "densenet": Case("densenet_bc100", "densenetbc100_cifar10_dice", CIFAR),
    "wrn16_1_svhn": Case(
        "wide_resnet16_1", "wrn16_1_svhn", HOUSE_NUMBERS, "svhn", ("cifar10", "textures", "tiny_imagenet"), ()
    ),
    "mnist": Case("mnist_convnet", "convnet_mnist_baseline", None, "mnist", GREY, ()),
    "mnist_oe": Case("mnist_convnet", "convnet_mnist_oe_tune", None, "mnist", GREY, ()),
    "resnet8": Case("cifar_resnet8", "resnet8_cifar10"),
}


def folder(asked: str | None) -> Path:
    """The published sets."""
    return Path(asked or os.environ["SPARSENSE_DATA"])


def load(name: str, root: Path) -> Network:
    case = NETWORKS[name]
    weights = root / f"nets/{case.weights}.safetensors"
    return load_network(case.source, weights=weights, preprocessing=case.preprocessing)


def known(name: str, root: Path) -> tuple[Dataset, Dataset]:
    """In-distribution images to fit on, and others to judge by."""
    source = SOURCES[NETWORKS[name].known]
    if "train" in source.splits:
        return source("train", data_root=root), source("test_all", data_root=root)
    every = source("test", data_root=root)
    order = shuffled(len(every), seed=0)
    return every.subset(order[HELD_OUT:]), every.subset(order[:HELD_OUT])


def strange(name: str, root: Path) -> dict[str, Dataset]:
    """The sets of anomalies by name."""
    sources = {key: SOURCES[key] for key in NETWORKS[name].anomalies}
    return {
        key: one("test_all" if "test_all" in one.splits else "test", data_root=root) for key, one in sources.items()
    }
