"""Widths that the runtime likes: rounded down, kept, or padded with zero channels, whichever measures fastest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsense.criteria import CRITERIA
from sparsense.errors import InputError
from sparsense.pruning.channels import channel_groups
from sparsense.pruning.grouping import left_alone, widths
from sparsense.pruning.groups import ChannelGroup, Removal, Side, merged
from sparsense.pruning.grow import Growth, grow_, growth_of, why_not_grow
from sparsense.pruning.plan import ChannelOptions, unit_saliency, units_per_multiple
from sparsense.pruning.proof import bare_copy, prove, same_outputs
from sparsense.pruning.protect import Example
from sparsense.pruning.select import least
from sparsense.pruning.surgery import cut_
from sparsense.recording.layers import prunable_weights

Measure = Callable[[Mapping[str, nn.Module]], Mapping[str, float]]
"""Variant name -> network, to variant name -> milliseconds, measured side by side."""


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
    """

    module: nn.Module
    widths: Mapping[str, int]
    milliseconds: float
    exact: bool
    error: float


@dataclass(frozen=True)
class Alignment:
    """All variants, and the name of the fastest that was allowed."""

    variants: Mapping[str, Variant]
    best: str

    @property
    def module(self) -> nn.Module:
        """The network of the best variant."""
        return self.variants[self.best].module


def align_widths(
    module: nn.Module,
    example_input: Example,
    *,
    measure: Measure,
    multiple: int = 8,
    saliency: Mapping[str, Tensor] | None = None,
    exact: bool = False,
) -> Alignment:
    """Measure a network with its widths kept, padded up and rounded down to a multiple, and take the fastest.

    ONNX Runtime's blocked kernels need channels in multiples of 8 (16 with AVX-512); other widths can be slower
    than the next multiple although they compute less. Padding adds channels that are zero and outputs that stay
    the same; rounding down removes the least salient channels and changes them.

    Args:
        module: A network, usually just pruned; it is not changed.
        example_input: One batch (or a tuple of arguments).
        measure: Gives the milliseconds of several networks side by side; exporting is up to it.
        multiple: Of channels.
        saliency: Says which channels go when rounding down; magnitude by default.
        exact: Leave out rounding down.

    Returns:
        The variants `kept`, `padded` and `rounded down` (those that differ from `kept`), and the best.

    Raises:
        InputError: The multiple is below 2.
        UnsupportedLayerError: The network cannot be traced.
    """
    if multiple < 2:
        raise InputError(f"aligning widths: multiple must be at least 2; got {multiple}")
    groups = channel_groups(module, example_input, ChannelOptions(unsupported="keep"))
    free = [group for group in groups if not left_alone(group) and all(not reason for reason in group.protected)]
    made: dict[str, tuple[nn.Module, float]] = {"kept": (deepcopy(module), 0.0)}
    padded = _padded(module, free, multiple)
    if padded is not None:
        made["padded"] = (padded, same_outputs(module, padded, example_input))
    if not exact:
        removal = _rounded_down(module, free, multiple, saliency or CRITERIA["magnitude"](prunable_weights(module)))
        if removal:
            smaller = deepcopy(module)
            cut_(smaller, removal)
            made["rounded down"] = (smaller, prove(module, smaller, removal, example_input))
    times = measure({name: bare_copy(network) for name, (network, _) in made.items()})
    variants = {
        name: Variant(network, widths(network), times[name], name != "rounded down", error)
        for name, (network, error) in made.items()
    }
    return Alignment(variants, min(variants, key=lambda name: variants[name].milliseconds))


def _padded(module: nn.Module, groups: list[ChannelGroup], multiple: int) -> nn.Module | None:
    growths: list[dict[Side, Tensor]] = []
    for group in groups:
        missing = -group.units % units_per_multiple(group, multiple)
        if missing and not why_not_grow(module, group):
            growths.append(growth_of(group, missing))
    if not growths:
        return None
    twin = deepcopy(module)
    grow_(twin, _joined(growths))
    return twin


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


def _rounded_down(
    module: nn.Module, groups: list[ChannelGroup], multiple: int, saliency: Mapping[str, Tensor]
) -> Removal:
    removals = []
    for group in groups:
        step = units_per_multiple(group, multiple)
        surplus = group.units % step if group.units > step else 0
        if surplus:
            values = unit_saliency(module, group, saliency, ChannelOptions())
            gone = torch.zeros(group.units, dtype=torch.bool)
            gone[least(values, surplus)] = True
            removals.append(group.removed_channels(gone))
    return merged(removals)
