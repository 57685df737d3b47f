"""Which weights are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from sparsense.errors import InputError


@dataclass(frozen=True)
class Mask:
    """Parameter name -> bool tensor shaped like the parameter, True = kept; parameters not named are kept.

    Example:
        >>> mask = Mask({"w": torch.tensor([True, False, False, True])})
        >>> mask.sparsity, (mask & Mask({"w": torch.tensor([True, True, True, False])})).kept
        (0.5, 1)
    """

    keep: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        wrong = [name for name, keep in self.keep.items() if keep.dtype != torch.bool]
        if wrong:
            raise InputError(f"a mask holds bool tensors; those of {', '.join(wrong)} are not")
        object.__setattr__(self, "keep", MappingProxyType(dict(self.keep)))

    @property
    def size(self) -> int:
        """How many weights the mask speaks about."""
        return sum(keep.numel() for keep in self.keep.values())

    @property
    def kept(self) -> int:
        """How many of them are kept."""
        return sum(int(keep.sum()) for keep in self.keep.values())

    @property
    def density(self) -> float:
        """The share that is kept; 1 for an empty mask."""
        return self.kept / self.size if self.size else 1.0

    @property
    def sparsity(self) -> float:
        """The share that is removed."""
        return 1.0 - self.density

    def layer_sparsity(self) -> dict[str, float]:
        """The sparsity of every parameter."""
        return {name: 1.0 - float(keep.double().mean()) for name, keep in self.keep.items()}

    def __and__(self, other: Mask) -> Mask:
        """What both keep; a parameter only one of them names is as that one says."""
        both = {name: keep & other.keep[name] if name in other.keep else keep for name, keep in self.keep.items()}
        return Mask({**other.keep, **both})

    @torch.no_grad()
    def apply_(self, module: nn.Module) -> None:
        """Set the removed weights of a network to zero, in place.

        Raises:
            InputError: A name or shape does not fit the network; nothing was changed.
        """
        parameters = dict(module.named_parameters(remove_duplicate=False))
        for name, keep in self.keep.items():
            if name not in parameters:
                raise InputError(f"applying a mask: the network has no parameter {name!r}; it has "
                                 f"{', '.join(parameters)}")  # fmt: skip
            if parameters[name].shape != keep.shape:
                raise InputError(f"applying a mask: parameter {name!r} has shape {list(parameters[name].shape)}, "
                                 f"its mask {list(keep.shape)}; select anew from this network's weights")  # fmt: skip
        for name, keep in self.keep.items():
            parameters[name].masked_fill_(~keep.to(parameters[name].device), 0)

    @classmethod
    def of_zeros(cls, module_weights: Mapping[str, Tensor]) -> Mask:
        """The mask a network already carries: its non-zero weights are kept."""
        return cls({name: weight.detach() != 0 for name, weight in module_weights.items()})
