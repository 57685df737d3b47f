"""In which order the units of groups go while a plan grows: all against all, block by block, or by shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from sparsense.errors import InputError
from sparsense.pruning.groups import ChannelGroup
from sparsense.pruning.select import least
from sparsense.pruning.shares import Shares, block_of

Steps = Callable[[int], list[int]]
"""Step of the search, at most the number of units that may go -> how many units each group loses."""
ChannelScope = Literal["global", "layer", "block"] | Shares
"""Which units compete with each other; or how much of each group goes."""
SCOPES = ("global", "layer", "block")


def order_of(group: ChannelGroup, values: Tensor, least_left: int = 1) -> Tensor:
    """The units that may go, least salient first, without those that have to stay: at least one."""
    free = group.prunable.nonzero().flatten()
    stays = max(1, least_left) - (group.units - len(free))
    ordered = free[least(values[free], len(free))]
    return ordered[: len(ordered) - max(0, stays)]


def steps_of(
    scope: ChannelScope, groups: Sequence[ChannelGroup], orders: Sequence[Tensor], saliencies: Sequence[Tensor]
) -> Steps:
    """The sequence of a scope.

    Args:
        scope: `global` compares the units of all groups, `block` those of groups in the same submodule (each of
            which loses the same share), `layer` takes the same share of every group; shares say it per group.
        groups: Groups.
        orders: Their units that may go, least salient first.
        saliencies: Of all their units.

    Raises:
        InputError: An unknown scope.
    """
    if callable(scope):
        return _by_shares(groups, orders, scope)
    if scope == "layer":
        return _by_shares(groups, orders, lambda amount: {group.name: amount for group in groups})
    if scope not in SCOPES:
        raise InputError(f"scope must be one of {', '.join(SCOPES)}; got {scope!r}")
    names = [block_of(group.producers) if scope == "block" else "" for group in groups]
    return _together(orders, saliencies, names)


def _together(orders: Sequence[Tensor], saliencies: Sequence[Tensor], blocks: Sequence[str]) -> Steps:
    """The same share of every block, in a block the least salient units first."""
    sequences = []
    for block in dict.fromkeys(blocks):
        members = [index for index, name in enumerate(blocks) if name == block]
        owner = torch.cat([torch.full((len(orders[index]),), index) for index in members])
        values = torch.cat([saliencies[index][orders[index]] for index in members])
        sequences.append(owner[least(values, len(values))])
    last = max(1, sum(len(order) for order in orders))

    def counts(step: int) -> list[int]:
        gone = torch.cat([sequence[: math.floor(step * len(sequence) / last + 0.5)] for sequence in sequences])
        return [int(count) for count in torch.bincount(gone, minlength=len(orders))]

    return counts


def _by_shares(groups: Sequence[ChannelGroup], orders: Sequence[Tensor], shares: Shares) -> Steps:
    last = max(1, sum(len(order) for order in orders))

    def counts(step: int) -> list[int]:
        return share_counts(groups, orders, shares(step / last))

    return counts


def share_counts(groups: Sequence[ChannelGroup], orders: Sequence[Tensor], shares: Mapping[str, float]) -> list[int]:
    """How many units each group loses: its share of the units that may go, as far as its floor allows."""
    wanted = [math.floor(shares.get(group.name, 0.0) * int(group.prunable.sum()) + 0.5) for group in groups]
    return [min(len(order), count) for order, count in zip(orders, wanted, strict=True)]
