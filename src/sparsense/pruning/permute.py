"""Channels put into another order, so that an N:M pattern keeps more of what matters; the outputs stay the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from sparsense.pruning.axes import axes_of
from sparsense.pruning.channels import channel_groups
from sparsense.pruning.groups import ChannelGroup, Side
from sparsense.pruning.grow import grow_
from sparsense.pruning.patterns import select_n_of_m
from sparsense.pruning.plan import ChannelOptions
from sparsense.pruning.proof import DisproofError, same_outputs
from sparsense.pruning.protect import Example
from sparsense.recording.layers import layouts, prunable_weights
from sparsense.recording.state import copy_of

TRIES = 2000
"""Pairs of runs that are looked at in a group, at most."""


@dataclass(frozen=True)
class Permutation:
    """A network with its channels in another order.

    Args:
        module: Computes the same.
        kept: Share of the saliency that the pattern keeps, before and after.
        groups: Producers of the groups that have another order now.
        error: Largest relative difference of the outputs.
    """

    module: nn.Module
    kept: tuple[float, float]
    groups: tuple[str, ...]
    error: float


def permute_for_pattern(
    module: nn.Module, example_input: Example, saliency: Mapping[str, Tensor], *, n: int, m: int, tries: int = TRIES
) -> Permutation:
    """Reorder channels so that N of every M consecutive inputs hold more of the saliency.

    Two runs of M channels exchange the two channels that gain most, until no exchange helps or the tries are used
    up. Whoever makes the channels is reordered with those who read them. Groups whose channels come in blocks (grouped
    convolutions, attention, flattened maps, concatenations) stay as they are.

    Args:
        module: Not changed.
        example_input: One batch (or a tuple of arguments).
        saliency: Parameter name -> saliency, of the weights that the pattern is for.
        n: Kept of every m.
        m: Length of a run.
        tries: Pairs of runs that are looked at in a group, at most.

    Raises:
        UnsupportedLayerError: The network cannot be traced.
        InputError: The pattern does not fit a layer.

    Reference:
        J. Pool, C. Yu, "Channel permutations for N:M sparsity", NeurIPS 2021.
    """
    carrier = copy_of(module)  # holds the saliency in the place of the weights, and is reordered like them
    before = _kept(module, saliency, n, m)
    for name, weight in prunable_weights(carrier).items():
        weight.detach().copy_(saliency.get(name, torch.zeros_like(weight)))
    twin, groups, error = copy_of(module), list[str](), 0.0
    for group in channel_groups(module, example_input, ChannelOptions(unsupported="keep")):
        readers = _readers(carrier, group, m) if _one_by_one(group) else []
        order = better_order(torch.cat(readers), n, m, tries=tries) if readers else torch.arange(group.units)
        if torch.equal(order, torch.arange(group.units)):
            continue
        sides, found = _sides(group, order), copy_of(twin)
        grow_(found, sides)
        try:
            error = max(error, same_outputs(module, found, example_input))
        except DisproofError:
            continue  # the order of these channels shows in the outputs
        grow_(carrier, sides)
        twin = found
        groups.append(group.name)
    after = _kept(module, {name: prunable_weights(carrier)[name].detach() for name in saliency}, n, m)
    return Permutation(twin, (before, after), tuple(groups), error)


def better_order(matrix: Tensor, n: int, m: int, *, tries: int = TRIES) -> Tensor:
    """An order of columns in which the n largest of every m consecutive ones of a row add up to more.

    Args:
        matrix: Saliencies, `[rows, columns]`; columns are a multiple of m.
        n: Kept of every m.
        m: Length of a run.
        tries: Pairs of runs that are looked at, at most.

    Example:
        >>> better_order(torch.tensor([[9.0, 9.0, 0.0, 0.0]]), 1, 2).tolist()
        [2, 1, 0, 3]
    """
    order, swaps = torch.arange(matrix.shape[1]), _swaps(m)
    improved = True
    while improved and tries > 0:
        improved = False
        for one, other in combinations(torch.split(order, m), 2):
            tries -= 1
            both = torch.cat([one, other])
            kept = _largest(matrix[:, both][:, swaps], n).sum((0, 2))  # [rows, swaps, 2, m] -> [swaps]
            best = int(kept.argmax())
            if kept[best] > kept[0] * (1 + 1e-9):
                improved = True
                one[:], other[:] = both[swaps[best]]
            if not tries:
                break
    return order


def _swaps(m: int) -> Tensor:
    """Two runs as they are, then with every pair of their members exchanged: indices `[1 + m * m, 2, m]`."""
    rows = torch.arange(2 * m).repeat(1 + m * m, 1)
    for place, (left, right) in enumerate(torch.cartesian_prod(torch.arange(m), torch.arange(m, 2 * m)).tolist(), 1):
        rows[place, left], rows[place, right] = right, left
    return rows.reshape(-1, 2, m)


def _largest(values: Tensor, n: int) -> Tensor:
    return values.topk(n, dim=-1).values.sum(-1)


def _kept(module: nn.Module, saliency: Mapping[str, Tensor], n: int, m: int) -> float:
    """Share of the saliency that the pattern keeps."""
    mask = select_n_of_m(saliency, n=n, m=m, layouts=layouts(module))
    kept = sum(float(values[mask.keep[name]].double().sum()) for name, values in saliency.items())
    return kept / max(sum(float(values.double().sum()) for values in saliency.values()), 1e-300)


def _one_by_one(group: ChannelGroup) -> bool:
    """Whether every side has one channel per unit."""
    every = torch.arange(group.units)
    return group.refusal is None and all(
        len(units) == group.units and torch.equal(units.sort().values, every) for units in group.unit_of.values()
    )


def _readers(carrier: nn.Module, group: ChannelGroup, m: int) -> list[Tensor]:
    """Of every layer that reads the channels in their own order and has a saliency, `[rows, units]`."""
    found = []
    for side, units in group.unit_of.items():
        weight = prunable_weights(carrier).get(f"{side.layer}.weight")
        if side.side == "in" and weight is not None and torch.equal(units, torch.arange(len(units))):
            axis = next(a.dim for a in axes_of(carrier.get_submodule(side.layer), "in") if a.tensor == "weight")
            if weight.shape[axis] == len(units) and not len(units) % m and bool(weight.detach().any()):
                found.append(weight.detach().double().movedim(axis, -1).reshape(-1, len(units)))
    return found


def _sides(group: ChannelGroup, order: Tensor) -> dict[Side, Tensor]:
    """Side -> for every channel afterwards the index of the channel it is now."""
    return {side: units.argsort()[order[units]] for side, units in group.unit_of.items()}
