"""Variants of a network that differ in how the widths of its groups are aligned: made, proved, measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sparsense.criteria import CRITERIA
from sparsense.pruning.channels import channel_groups, tried_groups
from sparsense.pruning.grouping import left_alone, widths
from sparsense.pruning.groups import ChannelGroup, Removal, Side, merged
from sparsense.pruning.grow import Growth, grow_, growth_of, why_not_grow
from sparsense.pruning.plan import ChannelOptions, unit_saliency, units_per_multiple
from sparsense.pruning.proof import prove, same_outputs
from sparsense.pruning.protect import Example
from sparsense.pruning.select import least
from sparsense.pruning.surgery import cut_
from sparsense.recording.layers import prunable_weights
from sparsense.recording.state import bare_copy, copy_of

Measure = Callable[[Mapping[str, nn.Module]], Mapping[str, float]]
"""Variant name -> network, to variant name -> milliseconds, measured side by side."""

What = Literal["padded", "rounded down"]
WHATS: tuple[What, ...] = ("padded", "rounded down")
KEEP = ChannelOptions(unsupported="keep")


class Way(NamedTuple):
    """What becomes of a group's width."""

    what: What
    multiple: int

    def __str__(self) -> str:
        """As reports say it."""
        return f"{self.what} to multiples of {self.multiple}"


Ways = Mapping[str, Way]
"""First producer of a group -> what becomes of it; the others are kept."""


@dataclass(frozen=True)
class Variant:
    """One way to align a network.

    Args:
        module: The network.
        widths: Layer name -> output channels.
        milliseconds: As measured.
        exact: Whether its outputs are those of the network as it was.
        error: Largest relative difference of outputs to the network as it was (padding) or to masking (rounding
            down).
        ways: What became of which group.
    """

    module: nn.Module
    widths: Mapping[str, int]
    milliseconds: float
    exact: bool
    error: float
    ways: Ways = field(default_factory=dict)


@dataclass(frozen=True)
class Alignment:
    """All variants, the name of the fastest that was allowed, and the groups that could have other widths."""

    variants: Mapping[str, Variant]
    best: str
    groups: tuple[str, ...] = ()

    @property
    def module(self) -> nn.Module:
        """The network of the best variant."""
        return self.variants[self.best].module


class Aligner:
    """A network and its groups, the largest first, from which variants are made and measured.

    Args:
        module: The network; it is not changed.
        example_input: One batch (or a tuple of arguments).
        measure: Variant name -> network, to variant name -> milliseconds.
        saliency: Says which channels go when rounding down; magnitude by default.
    """

    def __init__(
        self, module: nn.Module, example_input: Example, measure: Measure, saliency: Mapping[str, Tensor] | None = None
    ) -> None:
        self.module, self.example_input, self.measure = module, example_input, measure
        self.saliency = saliency or CRITERIA["magnitude"](prunable_weights(module))
        free = _free(tried_groups(module, example_input, KEEP))  # what cannot be cut cannot be padded either
        self.groups = sorted(free, key=lambda group: -_weights(module, group))

    def everywhere(self, multiples: Sequence[int], exact: bool) -> dict[str, Ways]:
        """Variants that treat all groups alike, those that change nothing and repetitions left out."""
        found: dict[str, Ways] = {}
        for multiple in multiples:
            for what in WHATS[: 1 if exact else 2]:
                name = what if len(multiples) == 1 else str(Way(what, multiple))
                ways = {g.name: way for g in self.groups for way in self.ways_of(g, (multiple,), exact)
                        if way.what == what}  # fmt: skip
                if ways:
                    found[name] = ways
        return found

    def ways_of(self, group: ChannelGroup, multiples: Sequence[int], exact: bool) -> list[Way]:
        """What can become of a group, besides being kept."""
        ways: dict[int, Way] = {}
        for multiple in multiples:
            step = units_per_multiple(group, multiple)
            surplus = group.units % step
            if surplus and not why_not_grow(self.module, group):
                ways.setdefault(group.units - surplus + step, Way("padded", multiple))
            if surplus and group.units > step and not exact:
                ways.setdefault(group.units - surplus, Way("rounded down", multiple))
        return list(ways.values())

    def measured(self, asked: Mapping[str, Ways]) -> Alignment:
        """The variants made in the asked ways, proved and measured side by side."""
        made = {name: self._made(ways) for name, ways in asked.items()}
        times = self.measure({name: bare_copy(network) for name, (network, _) in made.items()})
        variants = {
            name: Variant(network, widths(network), times[name],
                          all(way.what == "padded" for way in asked[name].values()), error, asked[name])
            for name, (network, error) in made.items()
        }  # fmt: skip
        best = min(variants, key=lambda name: variants[name].milliseconds)
        return Alignment(variants, best, tuple(group.name for group in self.groups))

    def _made(self, ways: Ways) -> tuple[nn.Module, float]:
        """A copy with these widths, and the largest error of the proofs that it does what was meant."""
        smaller, removal = copy_of(self.module), self._removal(ways)
        error = 0.0
        if removal:
            cut_(smaller, removal)
            error = prove(self.module, smaller, removal, self.example_input)
        padded = {name: way.multiple for name, way in ways.items() if way.what == "padded"}
        if not padded:
            return smaller, error
        groups = _free(channel_groups(smaller, self.example_input, KEEP)) if removal else self.groups
        growths = [growth_of(group, -group.units % units_per_multiple(group, padded[group.name]))
                   for group in groups if group.name in padded]  # fmt: skip
        larger = copy_of(smaller)
        grow_(larger, _joined(growths))
        return larger, max(error, same_outputs(smaller, larger, self.example_input))

    def _removal(self, ways: Ways) -> Removal:
        removals = []
        for group in self.groups:
            way = ways.get(group.name)
            if way is not None and way.what == "rounded down":
                surplus = group.units % units_per_multiple(group, way.multiple)
                values = unit_saliency(self.module, group, self.saliency, ChannelOptions())
                gone = torch.zeros(group.units, dtype=torch.bool)
                gone[least(values, surplus)] = True
                removals.append(group.removed_channels(gone))
        return merged(removals)


def _free(groups: Sequence[ChannelGroup]) -> list[ChannelGroup]:
    """The groups that may have any width."""
    return [group for group in groups if not left_alone(group) and not any(group.protected)]


def _weights(module: nn.Module, group: ChannelGroup) -> int:
    """Weights of the group's producers: what its width can save."""
    weights = prunable_weights(module)
    return sum(weight.numel() for name, weight in weights.items() if name.rpartition(".")[0] in group.producers)


def _joined(growths: list[dict[Side, Tensor]]) -> Growth:
    # Groups that share a side (the input behind a concatenation) insert at different places of it.
    total: dict[Side, Tensor] = {}
    for growth in growths:
        for side, order in growth.items():
            total[side] = _both(total[side], order) if side in total else order
    return total


def _both(left: Tensor, right: Tensor) -> Tensor:
    channels = int((left >= 0).sum())
    behind = [_new_behind(order, channels) for order in (left, right)]
    order: list[int] = []
    for channel in range(channels):
        order += [channel] + [-1] * int(behind[0][channel] + behind[1][channel])
    return torch.tensor(order)


def _new_behind(order: Tensor, channels: int) -> Tensor:
    """How many new channels come behind each old one, `[channels]`; none comes before the first."""
    old_at = (order >= 0).nonzero().flatten()
    return torch.diff(old_at, append=torch.tensor([len(order)]))[:channels] - 1
