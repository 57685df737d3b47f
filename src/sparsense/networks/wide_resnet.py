"""Wide residual networks with activation before convolution, for 32x32 colour images."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from sparsense.data.preprocessing import Preprocessing
from sparsense.networks.network import NETWORKS
from sparsense.networks.residual import global_average


class WideBlock(nn.Module):
    """Two pre-activated 3x3 convolutions; a 1x1 convolution on the way around where the width changes.

    Reference:
        S. Zagoruyko, N. Komodakis, Wide Residual Networks, BMVC 2016, arXiv:1605.07146.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.batch_norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.batch_norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        widens = in_channels != out_channels
        self.conv_inp = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if widens else None

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        active = torch.relu(self.batch_norm1(x))
        y = self.conv2(torch.relu(self.batch_norm2(self.conv1(active))))
        output: Tensor = y + (x if self.conv_inp is None else self.conv_inp(active))
        return output


class WideStage(nn.Module):
    """Wide blocks one after another; the first may stride and widen."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, blocks: int) -> None:
        super().__init__()
        first = WideBlock(in_channels, out_channels, stride)
        rest = (WideBlock(out_channels, out_channels, 1) for _ in range(blocks - 1))
        self.nblockLayer = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        output: Tensor = self.nblockLayer(x)
        return output


class WideResNet(nn.Module):
    """WRN-(6 blocks + 4)-widen: three stages with 16, 32 and 64 times `widen` channels."""

    input_shape = (3, 32, 32)
    preprocessing = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))

    def __init__(self, blocks: int, widen: int, *, classes: int = 10) -> None:
        super().__init__()
        widths = [16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = WideStage(16, widths[0], 1, blocks)
        self.block2 = WideStage(widths[0], widths[1], 2, blocks)
        self.block3 = WideStage(widths[1], widths[2], 2, blocks)
        self.batch_norm = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        output: Tensor = self.fc(global_average(torch.relu(self.batch_norm(x))))
        return output


NETWORKS.add("wide_resnet16_1", partial(WideResNet, 2, 1))
NETWORKS.add("wide_resnet16_2", partial(WideResNet, 2, 2))
