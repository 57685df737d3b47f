"""The three autoencoders of the latent-norm publication: grey 28x28 images, colour 32x32 images, tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from sparsense.data.preprocessing import Preprocessing
from sparsense.networks.network import NETWORKS, Task

Output = Literal["linear", "sigmoid"]


class _Autoencoder(nn.Module):
    """Encoder, then decoder."""

    task: Task = "reconstruction"
    encoder: nn.Module
    decoder: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.decoder(self.encoder(x))
        return output


@NETWORKS.register("latent_norm_grey28")
class LatentNormGrey28(_Autoencoder):
    """Five 4x4 convolutions, a linear layer to the code, and the mirror image of both; batch norm, leaky ReLU 0.2.

    Args:
        channels: Of the image.
        latent: Length of the code; 128 is published for MNIST, 256 for Fashion-MNIST.
        output: `linear` as published, or `sigmoid` for errors that must stay within [0, 1].
        mean: Of the pixels in [0, 1]; 0.1307 is MNIST's, 0.2860 Fashion-MNIST's.
        std: Of the pixels; 0.3081 and 0.3530.
        width: Channels of the first layer, which the others are multiples of; 64 is published.

    Reference:
        A. Ghafourian et al., "Targeted collapse regularized autoencoder for anomaly detection: black hole at the
        center", TNNLS 2024, arXiv:2306.12627.
    """

    def __init__(
        self, *, channels: int = 1, latent: int = 128, output: Output = "linear", mean: float = 0.1307,
        std: float = 0.3081, width: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_shape = (channels, 28, 28)
        self.preprocessing = Preprocessing(mean=(mean,), std=(std,))
        a, b, c, d = (width * times for times in (1, 2, 4, 8))
        self.encoder = nn.Sequential(
            *_block(nn.Conv2d(channels, a, 4)), *_block(nn.Conv2d(a, b, 4)), *_block(nn.Conv2d(b, c, 4, stride=2)),
            *_block(nn.Conv2d(c, d, 4)), nn.Conv2d(d, a, 4), nn.Flatten(), nn.Linear(16 * a, latent),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(latent, 16 * a), nn.Unflatten(1, (a, 4, 4)), *_block(nn.ConvTranspose2d(a, d, 4)),
            *_block(nn.ConvTranspose2d(d, c, 4)), *_block(nn.ConvTranspose2d(c, b, 4, stride=2)),
            *_block(nn.ConvTranspose2d(b, a, 4)), nn.ConvTranspose2d(a, channels, 4), *_last(output),
        )  # fmt: skip


@NETWORKS.register("latent_norm_colour32")
class LatentNormColour32(_Autoencoder):
    """Convolutions without biases down to a code of 1x1, back again, and a bias learnt for every number of the image.

    Args:
        channels: Of the image.
        latent: Length of the code.
        output: `linear` as published, or `sigmoid`.
        width: Channels of the first layer, which the others are multiples of; 32 is published.

    Reference:
        As for `latent_norm_grey28`.
    """

    preprocessing = Preprocessing()

    def __init__(self, *, channels: int = 3, latent: int = 64, output: Output = "linear", width: int = 32) -> None:
        super().__init__()
        self.input_shape = (channels, 32, 32)
        a, b, c, d, e = (width * 2**level for level in range(5))
        down = [(a, 5, 1), (b, 4, 2), (c, 4, 1), (d, 4, 2), (e, 4, 1), (e, 1, 1)]
        up = [(d, 4, 1), (c, 4, 2), (b, 4, 1), (a, 4, 2), (a, 5, 1), (a, 1, 1)]
        self.encoder = nn.Sequential(
            *_stack(nn.Conv2d, channels, down), nn.Conv2d(e, latent, 1, bias=False), nn.Flatten()
        )
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (latent, 1, 1)),
            *_stack(nn.ConvTranspose2d, latent, up),
            nn.ConvTranspose2d(a, channels, 1, bias=False),
            Shift(self.input_shape),
            *_last(output),
        )


@NETWORKS.register("latent_norm_table")
class LatentNormTable(_Autoencoder):
    """Linear layers down to the code and back; batch norm and ReLU between them.

    Args:
        features: Columns of the table; 274 is that of the arrhythmia data.
        hidden: Widths on the way to the code; 256 and 128 are published.
        latent: Length of the code.
        output: `linear` as published, or `sigmoid` for columns that were brought to [0, 1].
        batch_norm: As published. Without, gradients of one sample do not depend on others, as GradCon's should not.

    Reference:
        As for `latent_norm_grey28`.
    """

    preprocessing = Preprocessing(layout="ND", dtype="float32", scale=1.0)

    def __init__(
        self, *, features: int = 274, hidden: Sequence[int] = (256, 128), latent: int = 16, output: Output = "linear",
        batch_norm: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_shape = (features,)
        self.encoder = _linear_stack([features, *hidden, latent], batch_norm)
        self.decoder = _linear_stack([latent, *reversed(hidden), features], batch_norm).extend(_last(output))


class Shift(nn.Module):
    """Adds a learnt number to every element of a sample."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(*shape))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x + self.bias


def _block(convolution: nn.Conv2d | nn.ConvTranspose2d, slope: float = 0.2) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.LeakyReLU(slope)]


def _stack(
    kind: type[nn.Conv2d | nn.ConvTranspose2d], channels: int, layers: Sequence[tuple[int, int, int]]
) -> list[nn.Module]:
    """Blocks of (width, kernel, stride) without biases."""
    found: list[nn.Module] = []
    for width, kernel, stride in layers:
        found += _block(kind(channels, width, kernel, stride=stride, bias=False), 0.1)
        channels = width
    return found


def _linear_stack(widths: Sequence[int], batch_norm: bool) -> nn.Sequential:
    """Linear layers between these widths, all but the last with ReLU, and batch norm before it."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        norm = [nn.BatchNorm1d(after)] if batch_norm else []
        layers += [nn.Linear(before, after), *norm, nn.ReLU()]
    return nn.Sequential(*layers[: -2 if batch_norm else -1])


def _last(output: str) -> list[nn.Module]:
    if output not in ("linear", "sigmoid"):
        raise ValueError(f"output must be linear or sigmoid; got {output!r}")
    return [nn.Sigmoid()] if output == "sigmoid" else []
