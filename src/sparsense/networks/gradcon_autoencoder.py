"""The convolutional autoencoder of GradCon for 28x28 images, and its variational form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsense.data.preprocessing import Preprocessing
from sparsense.networks.network import NETWORKS, Task

WIDTHS = (32, 32, 64, 64)
BACK = ((64, 2), (32, 1), (32, 2))  # output channels and padding; the last layer gives the image


@NETWORKS.register("gradcon_autoencoder")
class GradConAutoencoder(nn.Module):
    """Four strided convolutions to a code of 64 x 3 x 3, four transposed ones back, and a sigmoid.

    230,721 parameters for one channel. Inputs are in [0, 1]; other images are resized to 28x28 by the data source.

    Args:
        channels: Of the image.

    Reference:
        G. Kwon et al., "Backpropagated gradient representations for anomaly detection", ECCV 2020, arXiv:2007.09507.
    """

    preprocessing = Preprocessing()
    task: Task = "reconstruction"

    def __init__(self, *, channels: int = 1) -> None:
        super().__init__()
        self.input_shape = (channels, 28, 28)
        self.encoder = _encoder(channels)
        self.decoder = _decoder(channels)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        output: Tensor = self.decoder(self.encoder(x))
        return output


@NETWORKS.register("gradcon_vae")
class GradConVAE(nn.Module):
    """The same with a code that is drawn from a normal distribution in training, and its mean otherwise.

    `posterior` gives mean and logarithm of the variance, one after the other, `[N, 2 * latent]`.

    Args:
        channels: Of the image.
        latent: Length of the code.

    Reference:
        As for `gradcon_autoencoder`; D. Kingma, M. Welling, "Auto-encoding variational Bayes", arXiv:1312.6114.
    """

    preprocessing = Preprocessing()
    task: Task = "reconstruction"

    def __init__(self, *, channels: int = 1, latent: int = 64) -> None:
        super().__init__()
        self.input_shape = (channels, 28, 28)
        self.encoder = nn.Sequential(*_encoder(channels), nn.Flatten())
        self.posterior = nn.Linear(576, 2 * latent)
        self.decoder = nn.Sequential(
            nn.Linear(latent, 576), nn.ReLU(), nn.Unflatten(1, (64, 3, 3)), *_decoder(channels)
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        mean, log_variance = self.posterior(self.encoder(x)).chunk(2, 1)
        if self.training:
            mean = mean + torch.randn_like(mean) * torch.exp(log_variance / 2)
        output: Tensor = self.decoder(mean)
        return output


def _encoder(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in WIDTHS:
        layers += [nn.Conv2d(channels, width, 4, stride=2, padding=2), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)


def _decoder(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = WIDTHS[-1]
    for width, padding in BACK:
        layers += [nn.ConvTranspose2d(before, width, 4, stride=2, padding=padding), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.ConvTranspose2d(before, channels, 4, stride=2, padding=1), nn.Sigmoid())
