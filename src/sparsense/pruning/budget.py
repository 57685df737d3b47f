"""What a network would cost after a removal, from shapes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from torch import nn

from sparsense.errors import InputError
from sparsense.pruning.groups import ChannelGroup, Removal, Side
from sparsense.pruning.surgery import places

Measure = Literal["channels", "parameters", "multiply_adds", "bytes"]
MEASURES = ("channels", "parameters", "multiply_adds", "bytes")


@dataclass(frozen=True)
class Budget:
    """Counts parameters and multiply-adds of a network without the removed channels, without cutting it.

    Args:
        shapes: Parameter name -> shape before.
        buffers: The same for what a file holds besides: statistics of norms.
        axes: Parameter name -> axis -> the side whose channels lie along it.
        positions: Parameter name -> how often each of its numbers is multiplied per sample.
        channels: How many producer channels could be counted as removed.
    """

    shapes: Mapping[str, tuple[int, ...]]
    buffers: Mapping[str, tuple[int, ...]]
    axes: Mapping[str, Mapping[int, Side]]
    positions: Mapping[str, float]
    channels: int

    def parameters(self, removal: Removal) -> int:
        """Parameters left."""
        return round(sum(self._size(name, removal) for name in self.shapes))

    def bytes(self, removal: Removal) -> int:
        """Bytes of a file that holds parameters and statistics as float32."""
        return 4 * round(sum(self._size(name, removal) for name in (*self.shapes, *self.buffers)))

    def multiply_adds(self, removal: Removal) -> int:
        """Multiply-adds per sample left."""
        return round(sum(self._size(name, removal) * count for name, count in self.positions.items()))

    def share(self, measure: Measure, removal: Removal, channels_removed: int) -> float:
        """The share of the measure that a removal takes away, in [0, 1)."""
        if measure == "channels":
            return channels_removed / self.channels
        count = {"parameters": self.parameters, "multiply_adds": self.multiply_adds, "bytes": self.bytes}[measure]
        return 1 - count(removal) / max(count({}), 1)

    def _size(self, name: str, removal: Removal) -> float:
        share = prod(_share_left(removal, side) for side in self.axes.get(name, {}).values())
        return prod(self.shapes.get(name) or self.buffers.get(name, ())) * share


def budget_of(module: nn.Module, groups: Sequence[ChannelGroup], positions: Mapping[str, float]) -> Budget:
    """The budget of a network with the given groups; `positions` as from `measure_positions`."""
    stored = {name: buffer for name, buffer in module.named_buffers() if buffer.is_floating_point()}
    names: dict[int, str] = {id(buffer): name for name, buffer in stored.items()}
    for name, parameter in module.named_parameters():
        names[id(parameter)] = name
    axes: dict[str, dict[int, Side]] = {}
    for side, axis, _, tensor in places(module, {side: None for group in groups for side in group.unit_of}):
        if id(tensor) in names:
            axes.setdefault(names[id(tensor)], {})[axis.dim] = side
    multiplied = {
        names[id(parameter)]: count
        for layer, count in positions.items()
        for key, parameter in module.get_submodule(layer).named_parameters()
        if "weight" in key and id(parameter) in names
    }
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    buffers = {name: tuple(buffer.shape) for name, buffer in stored.items()}
    total = sum(int(group.channels_per_unit().sum()) for group in groups)
    return Budget(shapes, buffers, axes, multiplied, total)


def check_measure(measure: str) -> None:
    """Refuse an unknown measure."""
    if measure not in MEASURES:
        raise InputError(f"measure must be one of {', '.join(MEASURES)}; got {measure!r}")


def _share_left(removal: Removal, side: Side) -> float:
    gone = removal.get(side)
    return 1.0 if gone is None else 1 - float(gone.double().mean())
