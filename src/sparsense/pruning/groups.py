"""Channels that must go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Side(NamedTuple):
    """One channel axis of a layer (or of a bare parameter): what goes in, or what comes out.

    Layers that treat every channel alone (norms, depthwise convolutions, embeddings) have the side "out" only.
    """

    layer: str
    side: Literal["in", "out"]


Refusal = tuple[str, str, str]
"""Layer, type and reason."""


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose channels are coupled, and the units in which these channels can be removed.

    A unit is one channel of every coupled layer where the coupling is one to one, and more where it is not:
    `height * width` inputs of a fully connected layer behind a flattened map, one channel of every block of a
    grouped convolution or group norm, one of every head of an attention layer.

    Args:
        producers: Names of the layers that make the channels, in the order of the network.
        units: How many units there are.
        unit_of: Side -> for every channel of that side its unit, -1 for channels of other groups.
        protected: For every unit why it must stay, "" when it may go.
        refusal: Layer, type and reason when the group cannot be cut at all.
    """

    producers: tuple[str, ...]
    units: int
    unit_of: Mapping[Side, Tensor]
    protected: tuple[str, ...]
    refusal: Refusal | None = None

    @property
    def name(self) -> str:
        """The first producer."""
        return self.producers[0]

    @property
    def coupled(self) -> tuple[str, ...]:
        """The layers that are cut with the producers."""
        return tuple(dict.fromkeys(side.layer for side in self.unit_of if side.layer not in self.producers))

    @property
    def prunable(self) -> Tensor:
        """Bool `[units]`: which units may go."""
        free = self.refusal is None
        return torch.tensor([free and not reason for reason in self.protected], dtype=torch.bool)

    def channels_per_unit(self) -> Tensor:
        """How many producer channels each unit holds, `[units]`."""
        counts = torch.zeros(self.units, dtype=torch.int64)
        for producer in self.producers:
            units = self.unit_of[Side(producer, "out")]
            counts += torch.bincount(units[units >= 0], minlength=self.units)
        return counts

    def removed_channels(self, removed: Tensor) -> dict[Side, Tensor]:
        """Side -> bool per channel, True = goes with the removed units (bool `[units]`)."""
        with_none = torch.cat([removed, removed.new_zeros(1)])  # unit -1 is never removed
        return {side: with_none[units] for side, units in self.unit_of.items()}


Removal = Mapping[Side, Tensor]
"""Side -> bool per channel, True = removed."""


def merged(removals: list[dict[Side, Tensor]]) -> dict[Side, Tensor]:
    """The removals of several groups as one; groups may share a side (the input of a layer behind a concatenation)."""
    total: dict[Side, Tensor] = {}
    for removal in removals:
        for side, gone in removal.items():
            total[side] = total[side] | gone if side in total else gone
    return {side: gone for side, gone in total.items() if bool(gone.any())}
