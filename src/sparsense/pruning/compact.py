"""Channels that a mask has killed, removed exactly: the smaller network computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsense.pruning.axes import is_depthwise
from sparsense.pruning.channels import channel_groups
from sparsense.pruning.cost import Cost, measure_cost
from sparsense.pruning.grouping import left_alone
from sparsense.pruning.groups import ChannelGroup, Removal, Side, merged
from sparsense.pruning.grow import why_not_grow
from sparsense.pruning.plan import ChannelOptions
from sparsense.pruning.proof import DisproofError, random_like, same_outputs
from sparsense.pruning.protect import Example, run_example
from sparsense.pruning.surgery import cut_
from sparsense.recording.layers import PRUNABLE, channel_axis, layouts, prunable_weights
from sparsense.recording.state import bare_copy, copy_of, first_input


@dataclass(frozen=True)
class Compaction:
    """The compacted network, and what went.

    Args:
        module: The network without its dead channels.
        removed: First producer of a group -> producer channels removed.
        before: Cost before.
        after: Cost after.
        proof: Largest relative difference of outputs before and after.
    """

    module: nn.Module
    removed: Mapping[str, int]
    before: Cost
    after: Cost
    proof: float


def compact(module: nn.Module, example_input: Example) -> Compaction:
    """Remove the channels that are zero for every input, and those that nothing reads.

    A channel is dead when all weights that make it are zero and what arrives behind its norm and activation is
    exactly zero, or when all weights that read it are zero. Removing channels can kill others, so this goes on
    until none is left; every group keeps one unit. Worth it from about 95 % unstructured sparsity on.

    Args:
        module: A masked network; it is not changed.
        example_input: One batch (or a tuple of arguments), reaching every layer.

    Raises:
        UnsupportedLayerError: The network cannot be traced, or gives outputs with which nothing can be proved.
    """
    smaller, removed = copy_of(module), dict[str, int]()
    while True:
        groups = channel_groups(smaller, example_input, ChannelOptions(unsupported="keep"))
        removal = _exact(smaller, groups, example_input, removed)
        if not removal:
            break
        cut_(smaller, removal)
    proof = same_outputs(module, smaller, example_input)
    return Compaction(
        smaller, removed, measure_cost(module, example_input), measure_cost(smaller, example_input), proof
    )


def _exact(module: nn.Module, groups: list[ChannelGroup], example_input: Example, removed: dict[str, int]) -> Removal:
    """The dead channels of all groups whose removal leaves the outputs as they are; adds to `removed`."""
    silent = _silent_inputs(module, example_input)
    found: dict[str, tuple[dict[Side, Tensor], int]] = {}
    for group in groups:
        if left_alone(group) or why_not_grow(module, group):
            continue
        dead = dead_units(module, group, silent) & group.prunable
        if bool(dead.all()):
            dead[0] = False
        if bool(dead.any()):
            found[group.name] = group.removed_channels(dead), int(group.channels_per_unit()[dead].sum())
    if not _leaves_outputs(module, merged([removal for removal, _ in found.values()]), example_input):
        found = {name: row for name, row in found.items() if _leaves_outputs(module, row[0], example_input)}
    for name, (_, count) in found.items():
        removed[name] = removed.get(name, 0) + count
    return merged([removal for removal, _ in found.values()])


def dead_units(module: nn.Module, group: ChannelGroup, silent: Mapping[str, Tensor]) -> Tensor:
    """Bool `[units]`: units that nothing reads, or that are made of nothing and arrive as zero.

    Args:
        module: The network.
        group: One group.
        silent: Layer name -> bool per input channel, whether zero arrived there.
    """
    weights, shapes = prunable_weights(module), layouts(module)
    unread = torch.ones(group.units, dtype=torch.bool)
    arrives_as_zero = torch.ones(group.units, dtype=torch.bool)
    for side, units in group.unit_of.items():
        if side.side == "in":
            columns = _by_input(module.get_submodule(side.layer), weights[f"{side.layer}.weight"], len(units))
            _forbid(unread, units, (columns != 0).any(1))
            _forbid(arrives_as_zero, units, ~silent[side.layer])
    made = []
    for producer in group.producers:
        units = group.unit_of[Side(producer, "out")]
        rows = shapes[f"{producer}.weight"].filters(weights[f"{producer}.weight"])
        empty = torch.ones(group.units, dtype=torch.bool)
        _forbid(empty, units, (rows != 0).any(1))
        made.append((is_depthwise(module.get_submodule(producer)), empty))
    return unread | (arrives_as_zero & _made_of_nothing(made))


def _made_of_nothing(made: list[tuple[bool, Tensor]]) -> Tensor:
    every = torch.stack([empty for _, empty in made]).all(0)
    chain = [empty for depthwise, empty in made if depthwise]
    # One maker followed by depthwise convolutions is a chain, which an empty filter anywhere cuts.
    return torch.stack([empty for _, empty in made]).any(0) if len(made) == len(chain) + 1 else every


def _forbid(allowed: Tensor, units: Tensor, channels: Tensor) -> None:
    hit = units[channels.cpu() & (units >= 0)]
    allowed[hit] = False


def _by_input(layer: nn.Module, weight: Tensor, channels: int) -> Tensor:
    """The weights that read each input channel, `[channels, ...]`."""
    if getattr(layer, "transposed", False):
        return weight.flatten(1)
    groups = channels // weight.shape[1]
    blocks = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)
    return blocks.reshape(channels, -1)


@torch.no_grad()
def _silent_inputs(module: nn.Module, example_input: Example) -> dict[str, Tensor]:
    twin = bare_copy(module)
    silent: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Module) -> None:
        def hook(_layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            channels = first_input(args, kwargs).movedim(channel_axis(layer), 0).flatten(1)
            zero = (channels == 0).all(1).cpu()
            silent[name] = silent[name] & zero if name in silent else zero

        layer.register_forward_pre_hook(hook, with_kwargs=True)

    for name, layer in twin.named_modules():
        if isinstance(layer, PRUNABLE):
            watch(name, layer)
    run_example(twin, random_like(example_input))
    return silent


def _leaves_outputs(module: nn.Module, removal: Removal, example_input: Example) -> bool:
    smaller = copy_of(module)
    cut_(smaller, removal)
    try:
        same_outputs(module, smaller, example_input)
    except DisproofError:
        return False
    return True
