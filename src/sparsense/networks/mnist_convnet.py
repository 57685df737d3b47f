"""Two convolutions and two fully connected layers for 28x28 images of one channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsense.data.preprocessing import Preprocessing
from sparsense.networks.network import NETWORKS


@NETWORKS.register("mnist_convnet")
class MnistConvNet(nn.Module):
    """Convolution, 2x2 maximum, GELU, twice; then 50 hidden units.

    GELU is x * sigmoid(1.702 x), the approximation its weights were trained with.

    Reference:
        D. Hendrycks et al., Deep Anomaly Detection with Outlier Exposure, ICLR 2019, arXiv:1812.04606.
    """

    input_shape = (1, 28, 28)
    preprocessing = Preprocessing()

    def __init__(self, *, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = _gelu(functional.max_pool2d(self.conv1(x), 2))
        x = _gelu(functional.max_pool2d(self.conv2(x), 2))
        output: Tensor = self.fc2(_gelu(self.fc1(x.flatten(1))))
        return output


def _gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)
