"""The ResNet-8 of the MLPerf Tiny benchmark: one block per stage, with biases."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsense.data.preprocessing import Preprocessing
from sparsense.networks.network import NETWORKS
from sparsense.networks.residual import global_average

EPS = 1e-3  # of every batch norm


@NETWORKS.register("cifar_resnet8")
class TinyResNet(nn.Module):
    """Three residual stages with 16, 32 and 64 channels on raw pixels 0..255.

    A 3x3 convolution of stride 2 pads below and to the right only.

    Reference:
        C. Banbury et al., MLPerf Tiny Benchmark, NeurIPS Datasets and Benchmarks 2021, arXiv:2106.07597.
    """

    input_shape = (3, 32, 32)
    preprocessing = Preprocessing(scale=1.0)

    def __init__(self, *, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16, EPS)
        self.s1conv1 = nn.Conv2d(16, 16, 3, padding=1)
        self.s1bn1 = nn.BatchNorm2d(16, EPS)
        self.s1conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.s1bn2 = nn.BatchNorm2d(16, EPS)
        self.s2conv1 = nn.Conv2d(16, 32, 3, 2)
        self.s2bn1 = nn.BatchNorm2d(32, EPS)
        self.s2conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.s2bn2 = nn.BatchNorm2d(32, EPS)
        self.s2skip = nn.Conv2d(16, 32, 1, 2)
        self.s3conv1 = nn.Conv2d(32, 64, 3, 2)
        self.s3bn1 = nn.BatchNorm2d(64, EPS)
        self.s3conv2 = nn.Conv2d(64, 64, 3, padding=1)
        self.s3bn2 = nn.BatchNorm2d(64, EPS)
        self.s3skip = nn.Conv2d(32, 64, 1, 2)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.s1bn1(self.s1conv1(x)))
        x = torch.relu(self.s1bn2(self.s1conv2(y)) + x)
        y = torch.relu(self.s2bn1(self.s2conv1(_pad_end(x))))
        x = torch.relu(self.s2bn2(self.s2conv2(y)) + self.s2skip(x))
        y = torch.relu(self.s3bn1(self.s3conv1(_pad_end(x))))
        x = torch.relu(self.s3bn2(self.s3conv2(y)) + self.s3skip(x))
        output: Tensor = self.fc(global_average(x))
        return output


def _pad_end(x: Tensor) -> Tensor:
    return functional.pad(x, (0, 1, 0, 1))
