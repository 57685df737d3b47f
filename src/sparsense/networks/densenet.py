"""Densely connected networks for 32x32 colour images: every layer reads all maps made before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsense.data.preprocessing import Preprocessing
from sparsense.networks.network import NETWORKS
from sparsense.networks.residual import global_average


class BottleneckLayer(nn.Module):
    """A 1x1 convolution to four times the growth, a 3x3 convolution to the growth; appended to the input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = self.conv1(torch.relu(self.bn1(x)))
        y = self.conv2(torch.relu(self.bn2(y)))
        return torch.cat([x, y], 1)


class DenseBlock(nn.Module):
    """Bottleneck layers one after another."""

    def __init__(self, in_channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(*(BottleneckLayer(in_channels + i * growth, growth) for i in range(layers)))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        output: Tensor = self.layer(x)
        return output


class Transition(nn.Module):
    """Half the channels by a 1x1 convolution, half the size by averaging."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, in_channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return functional.avg_pool2d(self.conv1(torch.relu(self.bn1(x))), 2)


@NETWORKS.register("densenet_bc100")
class DenseNet(nn.Module):
    """DenseNet-BC: three dense blocks with halving transitions between them.

    Args:
        growth: Channels that each layer adds.
        layers: Bottleneck layers per block; 16 is depth 100.
        classes: Width of the output.

    Reference:
        G. Huang et al., Densely Connected Convolutional Networks, CVPR 2017, arXiv:1608.06993.
    """

    input_shape = (3, 32, 32)
    preprocessing = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))

    def __init__(self, *, growth: int = 12, layers: int = 16, classes: int = 10) -> None:
        super().__init__()
        first = 2 * growth
        second = (first + layers * growth) // 2
        third = (second + layers * growth) // 2
        last = third + layers * growth
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.block1 = DenseBlock(first, growth, layers)
        self.trans1 = Transition(first + layers * growth)
        self.block2 = DenseBlock(second, growth, layers)
        self.trans2 = Transition(second + layers * growth)
        self.block3 = DenseBlock(third, growth, layers)
        self.bn1 = nn.BatchNorm2d(last)
        self.fc = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.trans1(self.block1(self.conv1(x)))
        x = self.block3(self.trans2(self.block2(x)))
        output: Tensor = self.fc(global_average(torch.relu(self.bn1(x))))
        return output
