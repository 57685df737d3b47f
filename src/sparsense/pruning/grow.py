"""Zero channels added to a network: other widths, the same outputs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from sparsense.pruning.groups import ChannelGroup, Side
from sparsense.pruning.surgery import norms_over_channels, owner_of, places, replace_tensor, set_width

Growth = Mapping[Side, Tensor]
"""Side -> for every channel afterwards the index of the channel it is now, or -1 for a new one."""


def growth_of(group: ChannelGroup, added: int) -> dict[Side, Tensor]:
    """Where `added` new units of a group come: behind its last unit, on every side, laid out like that unit."""
    growth = {}
    for side, units in group.unit_of.items():
        last = units == group.units - 1
        order: list[int] = []
        for start, stop, is_last in _runs(last):
            run = list(range(start, stop))
            order += run + [-1] * (len(run) * added if is_last else 0)
        growth[side] = torch.tensor(order)
    return growth


def why_not_grow(module: nn.Module, group: ChannelGroup) -> str:
    """Why zero channels would change what a group computes, "" when they would not."""
    for side in group.unit_of:
        if norms_over_channels(module, side.layer):
            return f"{side.layer} averages over its channels"
        if isinstance(owner_of(module, side.layer), nn.MultiheadAttention):
            return f"{side.layer} divides by the width of its heads"
    return ""


@torch.no_grad()
def grow_(module: nn.Module, growth: Growth) -> None:
    """Insert zero channels, in place: zero weights and biases on both sides, neutral norms.

    New channels are zero where they are made and nothing reads them, so outputs stay the same.
    """
    for side, axis, owner, tensor in places(module, growth):
        order = _order(growth[side], tensor.shape[axis.dim])
        grown = tensor.detach().index_select(axis.dim, order.clamp_min(0).to(tensor.device)).contiguous()
        neutral = 1.0 if axis.tensor == "running_var" else 0.0
        grown.index_fill_(axis.dim, (order < 0).nonzero().flatten().to(tensor.device), neutral)
        replace_tensor(owner, axis.tensor, grown)
    for side, order in growth.items():
        set_width(module, side, len(order))


def _order(order: Tensor, size: int) -> Tensor:
    # The same insertion for a tensor in which the channels come several times, or in blocks.
    channels = int((order >= 0).sum())
    if size < channels:
        return order[: len(order) * size // channels]
    offsets = torch.arange(size // channels)[:, None] * channels
    return torch.where(order >= 0, order + offsets, -1).flatten()


def _runs(flags: Tensor) -> list[tuple[int, int, bool]]:
    """Maximal stretches of equal flags: (start, stop, flag)."""
    edges = [0, *((flags[1:] != flags[:-1]).nonzero().flatten() + 1).tolist(), len(flags)]
    return [(a, b, bool(flags[a])) for a, b in pairwise(edges)]
