"""Residual networks for 32x32 colour images, depth 6n + 2, with padded shortcuts."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from sparsense.data.preprocessing import Preprocessing
from sparsense.networks.network import NETWORKS
from sparsense.networks.residual import BasicBlock, global_average
from sparsense.networks.shortcuts import PadShortcut


class CifarResNet(nn.Module):
    """Three stages of `blocks` residual blocks with `width`, 2 `width` and 4 `width` channels; published: 16, 32, 64.

    Reference:
        K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, section 4.2.
    """

    input_shape = (3, 32, 32)
    preprocessing = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    def __init__(self, blocks: int, *, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks)
        self.layer2 = _stage(width, 2 * width, blocks)
        self.layer3 = _stage(2 * width, 4 * width, blocks)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        output: Tensor = self.linear(global_average(x))
        return output


def _stage(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    narrow = in_channels == out_channels
    shortcut = nn.Identity() if narrow else PadShortcut(in_channels, out_channels, 2)
    first = BasicBlock(in_channels, out_channels, 1 if narrow else 2, shortcut)
    rest = (BasicBlock(out_channels, out_channels, 1, nn.Identity()) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


for _depth in (20, 32, 44, 56, 110):
    NETWORKS.add(f"cifar_resnet{_depth}", partial(CifarResNet, (_depth - 2) // 6))
