"""A U-Net that reconstructs images: convolutions down and up, with connections across."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from sparsense.data.preprocessing import Preprocessing
from sparsense.networks.network import NETWORKS, Task


@NETWORKS.register("unet_autoencoder")
class UNetAutoencoder(nn.Module):
    """Levels of two convolutions, each half as large as the one before; the way up joins the deeper levels again.

    Connections of the first levels would copy the image, defects included: only the `skips` deepest are there. Inputs
    and outputs are in [0, 1].

    Args:
        channels: Of the image.
        side: Of the image, in pixels; divisible by two as often as there are widths less one.
        widths: Channels of each level; the last one is the code.
        skips: How many levels above the code are connected across.

    Reference:
        O. Ronneberger, P. Fischer, T. Brox, U-Net, MICCAI 2015, arXiv:1505.04597.
    """

    preprocessing = Preprocessing()
    task: Task = "reconstruction"

    def __init__(
        self, *, channels: int = 1, side: int = 64, widths: Sequence[int] = (16, 32, 64, 64), skips: int = 1
    ) -> None:
        super().__init__()
        if side % 2 ** (len(widths) - 1) or not 0 <= skips < len(widths):
            raise ValueError(
                f"a U-Net of {len(widths)} levels needs a side divisible by {2 ** (len(widths) - 1)} and 0 to "
                f"{len(widths) - 1} skips; got {side} and {skips}"
            )
        self.input_shape = (channels, side, side)
        before = (channels, *widths)
        self.down = nn.ModuleList(_level(a, b) for a, b in zip(before[:-2], widths[:-1], strict=True))
        self.encoder = _level(widths[-2], widths[-1])
        self.decoder = _Decoder(channels, widths, joined=len(widths) - 1 - skips)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        across = []
        for level in self.down:
            across.append(level(x))
            x = nn.functional.max_pool2d(across[-1], 2)
        output: Tensor = self.decoder(self.encoder(x), across)
        return output


class _Decoder(nn.Module):
    """The way up: all that the code is decoded by, in one part, where `gradcon` looks for it.

    Args:
        channels: Of the image.
        widths: Of all levels.
        joined: The first level that is connected across.
    """

    def __init__(self, channels: int, widths: Sequence[int], *, joined: int) -> None:
        super().__init__()
        self.joined = joined
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairwise(widths))
        self.levels = nn.ModuleList(
            _level(width * (2 if level >= joined else 1), width) for level, width in enumerate(widths[:-1])
        )
        self.last = nn.Sequential(nn.Conv2d(widths[0], channels, 1), nn.Sigmoid())

    def forward(self, code: Tensor, across: Sequence[Tensor]) -> Tensor:
        x = code
        for number in reversed(range(len(across))):
            x = self.up[number](x)
            x = self.levels[number](torch.cat([x, across[number]], 1) if number >= self.joined else x)
        output: Tensor = self.last(x)
        return output


def _level(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)
