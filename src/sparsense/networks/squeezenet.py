"""SqueezeNet 1.0: 1x1 convolutions squeeze, 1x1 and 3x3 ones expand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsense.data.preprocessing import Preprocessing
from sparsense.networks.network import NETWORKS
from sparsense.networks.residual import global_average


class Fire(nn.Module):
    """relu(1x1), then relu of 1x1 and 3x3 side by side."""

    def __init__(self, in_channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


@NETWORKS.register("squeezenet")
class SqueezeNet(nn.Module):
    """Eight fire modules between two convolutions, for 227x227 colour images.

    Reference:
        F. N. Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters, 2016,
        arXiv:1602.07360.
    """

    input_shape = (3, 227, 227)
    preprocessing = Preprocessing(scale=1.0, mean=(123.0, 117.0, 104.0), std=(1.0, 1.0, 1.0))

    def __init__(self, *, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, 2)
        self.fire2, self.fire3, self.fire4 = Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128)
        self.fire5, self.fire6 = Fire(256, 32, 128), Fire(256, 48, 192)
        self.fire7, self.fire8 = Fire(384, 48, 192), Fire(384, 64, 256)
        self.fire9 = Fire(512, 64, 256)
        self.conv10 = nn.Conv2d(512, classes, 1, padding=1)  # sic: the published weights were trained with it

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = functional.max_pool2d(torch.relu(self.conv1(x)), 3, 2)
        x = functional.max_pool2d(self.fire4(self.fire3(self.fire2(x))), 3, 2)
        x = functional.max_pool2d(self.fire8(self.fire7(self.fire6(self.fire5(x)))), 3, 2)
        return global_average(torch.relu(self.conv10(self.fire9(x))))
