"""Networks of the sizes that people use, with random weights: what speed is measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from families import Attention, Residual, basic, bottleneck, conv, head
from torch import Tensor, nn

Shape = tuple[int, ...]


def resnet18_small() -> nn.Module:
    """For images of 32 x 32: a 3 x 3 stem without pooling, 0.56 G multiply-adds."""
    return nn.Sequential(conv(3, 64), *_resnet18_blocks(), *head(512, 10))


def resnet18() -> nn.Module:
    """For images of 224 x 224, 1.8 G multiply-adds."""
    return nn.Sequential(conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1), *_resnet18_blocks(), *head(512, 1000))


def _resnet18_blocks() -> list[nn.Module]:
    widths = [(64, 64, 1), (64, 64, 1)]
    for width in (64, 128, 256):
        widths += [(width, 2 * width, 2), (2 * width, 2 * width, 1)]
    return [basic(*width) for width in widths]


def resnet50() -> nn.Module:
    """For images of 224 x 224, 4.1 G multiply-adds."""
    blocks, width = [], 64
    for middle, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(count):
            blocks.append(bottleneck(width, middle, 4 * middle, stride if index == 0 else 1))
            width = 4 * middle
    return nn.Sequential(conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1), *blocks, *head(width, 1000))


def mobilenet_v2() -> nn.Module:
    """For images of 224 x 224, 0.3 G multiply-adds."""
    return nn.Sequential(conv(3, 32, 3, 2, act=nn.ReLU6), *_inverted_blocks((1, 2, 2, 2, 1, 2, 1)), *_top())


def mobilenet_v2_small() -> nn.Module:
    """For images of 32 x 32, with fewer strides as is usual there: 0.09 G multiply-adds."""
    return nn.Sequential(conv(3, 32, 3, 1, act=nn.ReLU6), *_inverted_blocks((1, 1, 2, 2, 1, 2, 1)), *_top())


def _top() -> list[nn.Module]:
    return [conv(320, 1280, 1, act=nn.ReLU6), *head(1280, 1000)]


def _inverted_blocks(strides: Sequence[int]) -> list[nn.Module]:
    """Expansion, width and number of blocks of every stage of MobileNetV2."""
    stages = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
    blocks, width = [], 32
    for (expansion, out, count), stride in zip(stages, strides, strict=True):
        for index in range(count):
            blocks.append(_inverted(width, out, stride if index == 0 else 1, expansion))
            width = out
    return blocks


def _inverted(i: int, o: int, s: int, expansion: int) -> nn.Module:
    wide = i * expansion
    grow = [] if expansion == 1 else [conv(i, wide, 1, act=nn.ReLU6)]
    body = nn.Sequential(*grow, conv(wide, wide, 3, s, wide, nn.ReLU6), conv(wide, o, 1, act=None))
    return Residual(body) if s == 1 and i == o else body


def _feed_forward(width: int) -> nn.Module:
    layers = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
    return nn.Sequential(nn.LayerNorm(width), *layers)


class ViTTiny(nn.Module):
    """Patches of 16 x 16 of images of 224 x 224, width 192, 12 blocks, 3 heads: 1.1 G multiply-adds."""

    def __init__(self) -> None:
        super().__init__()
        width = 192
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.first, self.position = (nn.Parameter(torch.randn(1, n, width) * 0.02) for n in (1, 197))
        self.blocks = nn.Sequential(
            *(
                module
                for _ in range(12)
                for module in (Attention(width, heads=3, fused=True), Residual(_feed_forward(width)))
            )
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


SIZED: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "resnet18_32": (resnet18_small, (3, 32, 32)),
    "resnet18_224": (resnet18, (3, 224, 224)),
    "resnet50_224": (resnet50, (3, 224, 224)),
    "mobilenet_v2_32": (mobilenet_v2_small, (3, 32, 32)),
    "mobilenet_v2_224": (mobilenet_v2, (3, 224, 224)),
    "vit_tiny_224": (ViTTiny, (3, 224, 224)),
}
