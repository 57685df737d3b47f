"""Our families read the published weights and are as good as they were measured to be (needs SPARSENSE_DATA)."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from sparsense.data import SOURCES
from sparsense.data.preprocessing import Preprocessing
from sparsense.networks import load_checkpoint, load_network, save_network
from sparsense.training import accuracy, predict

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("SPARSENSE_DATA" not in os.environ, reason="SPARSENSE_DATA is not set"),
]
SVHN = Preprocessing(mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970))
MEASURED = [
    ("cifar_resnet8", "resnet8_cifar10", "cifar10", None, 0.8779),
    ("cifar_resnet20", "resnet20_cifar10", "cifar10", None, 0.9129),
    ("cifar_resnet56", "resnet56_cifar10", "cifar10", None, 0.9251),
    ("wide_resnet16_2", "wrn16_2_cifar10", "cifar10", None, 0.9332),
    ("densenet_bc100", "densenetbc100_cifar10_dice", "cifar10", None, 0.9389),
    ("wide_resnet16_1", "wrn16_1_svhn", "svhn", SVHN, 0.9512),
    ("mnist_convnet", "convnet_mnist_baseline", "mnist", None, 0.9906),
    ("mnist_convnet", "convnet_mnist_oe_tune", "mnist", None, 0.9908),
]


def published(source, file, preprocessing=None):
    path = Path(os.environ["SPARSENSE_DATA"]) / "nets" / f"{file}.safetensors"
    return load_network(source, weights=path, preprocessing=preprocessing)


@pytest.mark.parametrize(("source", "file", "data", "preprocessing", "measured"), MEASURED)
def test_accuracy_is_the_measured_one(source, file, data, preprocessing, measured):
    split = "test" if data == "svhn" else "test_all"
    found = accuracy(published(source, file, preprocessing), SOURCES[data](split))
    assert found == pytest.approx(measured, abs=1e-4)


def test_the_autoencoder_tells_broken_toy_cars_as_well_as_measured():
    network, scores, labels = published("toycar_autoencoder", "ae_toycar_ad01"), [], []
    for split in ("calibration", "test"):
        windows = SOURCES["toycar"](split)
        errors = np.square(predict(network, windows.inputs) - windows.inputs).mean(1)
        scores.append(errors.reshape(-1, 196).mean(1))
        labels.append(windows.labels.reshape(-1, 196)[:, 0])
    assert roc_auc_score(np.concatenate(labels), np.concatenate(scores)) == pytest.approx(0.8804, abs=1e-3)


def test_squeezenet_reads_the_pruned_weights():
    module = published("squeezenet", "squeezenet10_imagenet_pruned").module
    assert sum(parameter.numel() for parameter in module.parameters()) == 1_248_424
    kernels = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    assert sum(int(kernel.count_nonzero()) for kernel in kernels) == 415_921


@torch.no_grad()
def test_a_pretrained_network_survives_saving_bit_for_bit(tmp_path):
    network = published("cifar_resnet56", "resnet56_cifar10")
    restored = load_checkpoint(save_network(network, tmp_path))
    inputs = torch.randn(4, 3, 32, 32)
    assert torch.equal(restored.module(inputs), network.module(inputs))
