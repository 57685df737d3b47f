"""What was done to a network's channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from sparsense.pruning.cost import Cost
from sparsense.pruning.grouping import left_alone
from sparsense.pruning.groups import ChannelGroup, Removal


@dataclass(frozen=True)
class GroupReport:
    """What happened to one group: its layers, its widths, or why it was left alone.

    `refusal` is the reason when it was left alone because it cannot be cut.
    """

    producers: tuple[str, ...]
    coupled: tuple[str, ...]
    width_before: int
    width_after: int
    left_alone: str
    refusal: str = ""


@dataclass(frozen=True)
class PruneReport:
    """The smaller network and what was done to it.

    Args:
        module: The pruned network.
        groups: Every group of coupled channels.
        widths_before: Layer name -> output channels.
        widths_after: The same after.
        before: Cost before.
        after: Cost after.
        asked: The asked share of `measure`.
        reached: The share that was removed.
        measure: `channels`, `parameters` or `multiply_adds`.
        proof: Largest difference between removing and masking on random inputs.
        removal: The channels that went, by side of a layer; other modules can be cut along with it.
    """

    module: nn.Module
    groups: tuple[GroupReport, ...]
    widths_before: Mapping[str, int]
    widths_after: Mapping[str, int]
    before: Cost
    after: Cost
    asked: float
    reached: float
    measure: str
    proof: float
    removal: Removal


def group_reports(groups: Sequence[ChannelGroup], removed: Mapping[str, Tensor]) -> tuple[GroupReport, ...]:
    """One line per group; `removed` maps the name of a group to its removed units."""
    return tuple(_group_report(group, removed.get(group.name)) for group in groups)


def _group_report(group: ChannelGroup, removed: Tensor | None) -> GroupReport:
    sizes = group.channels_per_unit()
    width = int(sizes.sum())
    gone = 0 if removed is None else int(sizes[removed].sum())
    refusal = "" if group.refusal is None or all(group.protected) else group.refusal[2]
    return GroupReport(group.producers, group.coupled, width, width - gone, left_alone(group), refusal)
