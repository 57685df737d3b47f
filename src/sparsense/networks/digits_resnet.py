"""The reference network: a small residual net for 16x16 grey images, quick to train, prune and export."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from sparsense.data.preprocessing import Preprocessing
from sparsense.networks.network import NETWORKS
from sparsense.networks.residual import BasicBlock, global_average


@NETWORKS.register("digits_resnet")
class DigitsResNet(nn.Module):
    """A first convolution, then one residual block per stage with projected shortcuts, then a linear layer.

    Args:
        widths: Channels per stage; multiples of 16 stay multiples of 8 when half of the channels are pruned.
        classes: Width of the output.
    """

    input_shape = (1, 16, 16)
    preprocessing = Preprocessing(mean=(0.5,), std=(0.5,))

    def __init__(self, *, widths: Sequence[int] = (16, 32, 64), classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        first = BasicBlock(widths[0], widths[0], 1, nn.Identity())
        self.stages = nn.Sequential(first, *(_widening_block(*pair) for pair in pairwise(widths)))
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.stages(torch.relu(self.bn1(self.conv1(x))))
        output: Tensor = self.fc(global_average(x))
        return output


def _widening_block(in_channels: int, out_channels: int) -> BasicBlock:
    projection = nn.Conv2d(in_channels, out_channels, 1, 2, bias=False)
    return BasicBlock(in_channels, out_channels, 2, nn.Sequential(projection, nn.BatchNorm2d(out_channels)))
