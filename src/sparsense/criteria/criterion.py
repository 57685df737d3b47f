"""What a criterion is, and the registry of criteria."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from sparsense.criteria.layout import Layout
from sparsense.errors import InputError
from sparsense.registry import Registry
from sparsense.sensitivity import Array, SensitivityRecord

Weights = Mapping[str, Tensor]
Saliency = dict[str, Tensor]
Layouts = Mapping[str, Layout]
Function = Callable[..., Saliency]


@dataclass(frozen=True)
class Criterion:
    """A pure function `(weights, record, /, **options) -> saliency`, with what one must know to use it.

    The saliency has the names and shapes of the weights, is finite, `>= 0`, and higher = keep. Summed over the
    weights of a channel (of a signed criterion: their mean) it is the saliency of the channel, so every criterion
    serves both structures.

    Args:
        name: The name in `CRITERIA`.
        function: The pure function.
        needs: Moments that the record must hold; `sparsense.recording.passes` knows the pass that gives each.
        gates: Gate moments that the record must hold.
        filters: It judges whole output channels, so it takes the option `layouts` (how channels lie in weights).
        signed: Its saliency is a signed number moved up to 0, of which only the order says something.
        advice: When it is sensible, in one line.
    """

    name: str
    function: Function
    needs: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    filters: bool = False
    signed: bool = False
    advice: str = ""

    def __call__(self, weights: Weights, record: SensitivityRecord | None = None, /, **options: Any) -> Saliency:
        """The saliency of every weight.

        Raises:
            InputError: The record is missing, lacks what the criterion needs, or is of another network; or an option
                that the criterion does not have.
        """
        known = [p.name for p in signature(self.function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        if unknown := [name for name in options if name not in known]:
            raise InputError(
                f"criterion {self.name!r} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}"
            )
        if record is None and (self.needs or self.gates):
            raise InputError(
                f"criterion {self.name!r} needs a record with {', '.join(self.needs + self.gates)}; got none; "
                "make it with sparsense.recording.passes.record_for"
            )
        return self.function(weights, record, **options)


CRITERIA: Registry[Criterion] = Registry("criterion")


def criterion(
    name: str,
    *,
    needs: tuple[str, ...] = (),
    gates: tuple[str, ...] = (),
    filters: bool = False,
    signed: bool = False,
    advice: str,
) -> Callable[[Function], Function]:
    """Register a pure function as the criterion `name`."""

    def register(function: Function) -> Function:
        CRITERIA.add(name, Criterion(name, function, needs, gates, filters, signed, advice))
        return function

    return register


def moment(record: SensitivityRecord, key: str, name: str, weight: Tensor) -> Tensor:
    """One moment of one weight, as float64 on the weight's device.

    Raises:
        InputError: The record lacks it, or was made of a network with other shapes.
    """
    array = record.moment(name, key)
    _same_shape(f"moment {key!r}", name, array.shape, tuple(weight.shape))
    return _tensor(array, weight)


def shared(values: Tensor, weight: Tensor, layout: Layout) -> Tensor:
    """Share one number per output channel `[O]` among the weights of the channel, so that they sum to it."""
    filters = layout.filters(weight)
    share = (values / filters.shape[1])[:, None].expand(filters.shape)
    return layout.unfilter(share, weight).contiguous()


def gate(record: SensitivityRecord, key: str, name: str, channels: int) -> Tensor:
    """One gate moment of one layer, `[O]`.

    Raises:
        InputError: The record lacks it, or was made of a network with other widths.
    """
    array = record.gate(name, key)
    _same_shape(f"gate moment {key!r}", name, array.shape, (channels,))
    return torch.from_numpy(array.copy())


def _same_shape(what: str, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise InputError(
            f"{what} of weight {name!r} must have shape {list(expected)} like the network's; the record's has "
            f"{list(found)}; record the network that is pruned"
        )


def _tensor(array: Array, weight: Tensor) -> Tensor:
    return torch.from_numpy(array.copy()).to(weight.device)
