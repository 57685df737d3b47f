"""Shortcuts without weights (stride, then zero channels) and the convolution that equals them exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle


class PadShortcut(nn.Module):
    """Option A of residual networks: every second pixel, zero channels on both sides, nothing to learn.

    Reference:
        K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        before = (out_channels - in_channels) // 2
        self.channels = (before, out_channels - in_channels - before)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.channels))


@torch.no_grad()
def rewrite_pad_shortcuts(module: nn.Module, example: Tensor) -> list[str]:
    """Replace, in place, every submodule that strides and pads channels by the equal 1x1 convolution.

    A padded shortcut fixes how many channels both its sides have, so nothing around it can be pruned; a
    convolution can be. Submodules are recognised by what they compute, not by their class: a replacement is
    made only where the two outputs are equal, bit for bit, on random inputs.

    Args:
        module: In evaluation mode.
        example: An input of the module.

    Returns:
        Names of the replaced submodules; each has one new parameter, its `weight`.
    """
    replaced = []
    for name, shape in _widening_submodules(module, example).items():
        shortcut = module.get_submodule(name)
        convolution = _equal_convolution(shortcut, torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        if convolution is not None:
            module.set_submodule(name, convolution)
            replaced.append(name)
    return replaced


def _widening_submodules(module: nn.Module, example: Tensor) -> dict[str, torch.Size]:
    """Names and input shapes of the leaves without weights that turn `[N, C, H, W]` into more channels."""
    shapes: dict[str, torch.Size] = {}

    def watch(name: str, leaf: nn.Module) -> RemovableHandle:
        def record(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            maps = [x.shape for x in (*inputs, output) if isinstance(x, Tensor) and x.ndim == 4]
            if len(inputs) == 1 and len(maps) == 2 and maps[1][1] > maps[0][1]:
                shapes[name] = maps[0]

        return leaf.register_forward_hook(record)

    handles = [watch(name, leaf) for name, leaf in module.named_modules() if name and not _has_state(leaf)]
    try:
        module(example)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _has_state(module: nn.Module) -> bool:
    return any(True for _ in (*module.children(), *module.parameters(), *module.buffers()))


def _equal_convolution(shortcut: nn.Module, probe: Tensor) -> nn.Conv2d | None:
    expected = shortcut(probe)
    stride = (-(-probe.shape[2] // expected.shape[2]), -(-probe.shape[3] // expected.shape[3]))
    lively = expected.abs().sum((0, 2, 3)).nonzero()
    if len(lively) == 0:
        return None
    convolution = _identity_convolution(probe.shape[1], expected.shape[1], stride, offset=int(lively[0]))
    return convolution if torch.equal(convolution(probe), expected) else None


def _identity_convolution(in_channels: int, out_channels: int, stride: tuple[int, int], offset: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    weight = torch.zeros(out_channels, in_channels, 1, 1)
    channels = torch.arange(min(in_channels, out_channels - offset))
    weight[channels + offset, channels] = 1.0
    convolution.weight.copy_(weight)
    return convolution
