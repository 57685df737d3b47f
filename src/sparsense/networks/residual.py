"""The residual block of two 3x3 convolutions, shared by the residual families."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class BasicBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of both convolutions.
        stride: Of the first convolution; the shortcut must have the same.
        shortcut: What the input goes through on its way around.

    Reference:
        K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def global_average(x: Tensor) -> Tensor:
    """`[N, C, H, W]` -> `[N, C]`."""
    return functional.adaptive_avg_pool2d(x, 1).flatten(1)
