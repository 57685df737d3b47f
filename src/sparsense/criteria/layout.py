"""How the channels of a layer lie in its weight."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How the output channels of a layer lie in its weight.

    Args:
        transposed: The weight is `[I, O / groups, ...]` instead of `[O, I / groups, ...]`.
        groups: Blocks of channels that do not see each other.
    """

    transposed: bool = False
    groups: int = 1

    def filters(self, weight: Tensor) -> Tensor:
        """The weight as `[O, weights of one channel]`."""
        if not self.transposed:
            return weight.flatten(1)
        blocks = weight.reshape(self.groups, -1, *weight.shape[1:]).transpose(1, 2)
        return blocks.flatten(0, 1).flatten(1)

    def unfilter(self, filters: Tensor, weight: Tensor) -> Tensor:
        """The inverse of `filters`: back to the shape of `weight`."""
        if not self.transposed:
            return filters.reshape(weight.shape)
        inner, outer = len(weight) // self.groups, weight.shape[1]
        blocks = filters.reshape(self.groups, outer, inner, *weight.shape[2:])
        return blocks.transpose(1, 2).reshape(weight.shape)
