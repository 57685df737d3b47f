"""From channels that must go together to groups: who makes them, what must stay, what cannot be cut."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sparsense.errors import UnsupportedLayerError
from sparsense.pruning.axes import blocks, channels, kind_of, treats_alike, why_not
from sparsense.pruning.groups import ChannelGroup, Side
from sparsense.pruning.surgery import bare_axis
from sparsense.pruning.unions import Unions
from sparsense.recording.layers import PRUNABLE

INPUT = "(input)"
ROOTS = (*PRUNABLE, nn.MultiheadAttention, nn.Embedding)
"""Layers that make channels."""


class Element(NamedTuple):
    """One channel of one side of a layer, a bare parameter, the input, or an operation (whose name is in brackets)."""

    layer: str
    side: Literal["in", "out"]
    channel: int


@dataclass(frozen=True)
class Stays:
    """Names of layers that keep their outputs: the ignored ones, and those that make the network's output."""

    ignored: Collection[str]
    outputs: Collection[str]

    def reason(self, element: Element) -> str:
        """Why a unit with this element must stay, "" when it may go."""
        if element.layer == INPUT:
            return "it is coupled to the input"
        if element.side == "out" and element.layer in self.ignored:
            return f"{element.layer} is ignored"
        if element.side == "out" and element.layer in self.outputs:
            return f"{element.layer or 'the network itself'} makes the output"
        return ""


def makers(module: nn.Module) -> dict[str, nn.Module]:
    """The layers that make channels, by name; the projections inside an attention layer belong to it."""
    attention = [name for name, part in module.named_modules() if isinstance(part, nn.MultiheadAttention)]
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, ROOTS) and not any(name.startswith(f"{owner}.") for owner in attention)
    }


def widths(module: nn.Module) -> dict[str, int]:
    """Layer name -> output channels, for every layer that makes channels."""
    return {name: channels(layer, "out") for name, layer in makers(module).items()}


def join_blocks(unions: Unions[Element], module: nn.Module) -> None:
    """Blocks of grouped convolutions, group norms and heads must lose the same positions."""
    sides: tuple[Literal["in", "out"], ...] = ("in", "out")
    for name, layer in module.named_modules():
        count = blocks(layer)
        for side in sides:
            if count > 1 and Element(name, side, 0) in unions:
                length = channels(layer, side) // count
                for position in range(length):
                    unions.join_all(Element(name, side, block * length + position) for block in range(count))


def groups_of(module: nn.Module, units: Sequence[Sequence[Element]], stays: Stays) -> list[ChannelGroup]:
    """Groups: producers that share a unit, in the order of the network."""
    order = {name: index for index, name in enumerate(makers(module))}
    together: Unions[str] = Unions()
    made_by = [[e.layer for e in unit if e.side == "out" and e.layer in order] for unit in units]
    for names in made_by:
        if names:
            together.join_all(names)
    members: dict[str, list[Sequence[Element]]] = {}
    for unit, names in zip(units, made_by, strict=True):
        if names:
            members.setdefault(together.root(names[0]), []).append(unit)
    groups = []
    for names in together.sets():
        producers = tuple(sorted(names, key=order.__getitem__))
        groups.append(_group(module, producers, _in_order(members[together.root(names[0])], producers), stays))
    return sorted(groups, key=lambda group: order[group.name])


def _in_order(units: list[Sequence[Element]], producers: tuple[str, ...]) -> list[Sequence[Element]]:
    rank = {name: index for index, name in enumerate(producers)}
    return sorted(units, key=lambda unit: min((rank[e.layer], e.channel) for e in unit if e.layer in rank))


def _group(module: nn.Module, producers: tuple[str, ...], units: list[Sequence[Element]], stays: Stays) -> ChannelGroup:
    sizes = _Sizes(module)
    unit_of: dict[Side, Tensor] = {}
    refusal = None
    for index, unit in enumerate(units):
        for element in unit:
            refusal = refusal or sizes.refusal(element)
            size = sizes.of(element)
            if element.channel < size:
                side = Side(element.layer, element.side)
                unit_of.setdefault(side, torch.full((size,), -1))[element.channel] = index
    protected = tuple(next((r for e in unit if (r := stays.reason(e))), "") for unit in units)
    return ChannelGroup(producers, len(units), unit_of, protected, refusal)


class _Sizes:
    """How many channels the sides of a network have, looked up once per side."""

    def __init__(self, module: nn.Module) -> None:
        self.layers = dict(module.named_modules())
        self.parameters = dict(module.named_parameters())
        self.tied = tied_layers(module)
        self.known: dict[tuple[str, str], int] = {}

    def of(self, element: Element) -> int:
        """Channels of the element's side; 0 for operations and for layers that cannot be cut."""
        key = (element.layer, element.side)
        if key not in self.known:
            self.known[key] = self._count(*key)
        return self.known[key]

    def refusal(self, element: Element) -> tuple[str, str, str] | None:
        """Layer, type and reason when the element cannot be cut."""
        layer = self.layers.get(element.layer)
        if layer is not None and treats_alike(layer):
            return None
        reason = "" if layer is None else self.tied.get(element.layer) or why_not(layer)
        if layer is not None and not reason and element.channel >= self.of(element):
            reason = (
                f"its {self.of(element)} channels are coupled to more than that, through an operation on channels "
                "such as padding, shuffling or a cut into heads (padded shortcuts: see sparsense.networks.shortcuts)"
            )
        return (element.layer, type(layer).__name__, reason) if reason else None

    def _count(self, name: str, side: str) -> int:
        if name in self.parameters:
            return self.parameters[name].shape[bare_axis(self.parameters[name])]
        layer = self.layers.get(name)
        return 0 if layer is None or treats_alike(layer) or kind_of(layer) is None else channels(layer, side)


def tied_layers(module: nn.Module) -> dict[str, str]:
    """Layers that share a parameter with others, and the reason why they cannot be cut."""
    owners: dict[int, list[str]] = {}
    for name, layer in module.named_modules():
        for parameter in layer._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(name)
    tied = [names for names in owners.values() if len(names) > 1]
    return {
        name: f"it shares a parameter with {', '.join(repr(n) for n in names if n != name)} (tied weights), "
        "so what one loses the other would lose elsewhere; untie them to prune them"
        for names in tied
        for name in names
    }


def refuse_recurrent(module: nn.Module) -> None:
    """Refuse recurrent layers: their hidden state and gates would have to be cut together.

    Raises:
        UnsupportedLayerError: There is one.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
            raise UnsupportedLayerError(
                name, type(layer).__name__, "recurrent layers cannot be traced; prune single weights instead, or "
                "prune the part of the network that has none"
            )  # fmt: skip


def refuse_unreached(
    module: nn.Module, units: Sequence[Sequence[Element]], called: Collection[str], ignored: Collection[str]
) -> list[str]:
    """Layers that cannot be followed: never called, or called where no gradient passes.

    Args:
        module: The network.
        units: What belongs together, as far as it could be followed.
        called: Names of the layers that the example reaches.
        ignored: Names of layers that may break.

    Returns:
        The layers that are called but cannot be followed. They keep their width, and what feeds them is proved like
        everything else.

    Raises:
        UnsupportedLayerError: A layer is never called, so it would break later, when its turn comes.
    """
    followed = {element.layer for unit in units for element in unit}
    lost = [name for name in makers(module) if name not in followed and name not in ignored]
    for name in lost:
        if name not in called:
            raise UnsupportedLayerError(
                name, type(module.get_submodule(name)).__name__, "the example input does not reach it (or its weight "
                "is used without calling it), so what it is coupled to is unknown; give an example that reaches it, or "
                "ignore it if it may break"
            )  # fmt: skip
    return lost


def refuse_cut_off(module: nn.Module, names: Sequence[str]) -> None:
    """Refuse layers that run, but whose channels cannot be followed to an output.

    Raises:
        UnsupportedLayerError: There is one.
    """
    for name in names:
        raise UnsupportedLayerError(
            name, type(module.get_submodule(name)).__name__, "no gradient of the outputs reaches it: its own output is "
            "not used, detached, or computed under torch.no_grad(); its channels cannot be followed, so ignore it, or "
            "use unsupported='keep'"
        )  # fmt: skip


def refused(groups: Sequence[ChannelGroup]) -> UnsupportedLayerError:
    """The error for groups that cannot be cut: the first one's layer and reason, and the way out for all."""
    assert groups[0].refusal is not None
    layer, kind, reason = groups[0].refusal
    names = ", ".join(repr(name) for group in groups for name in group.producers)
    others = f" (and {len(groups) - 1} more groups)" if len(groups) > 1 else ""
    return UnsupportedLayerError(
        layer, kind, f"{reason}; to leave its group{others} alone, ignore {names} (or use unsupported='keep')"
    )


def with_refusal(group: ChannelGroup, refusal: tuple[str, str, str]) -> ChannelGroup:
    """The same group, refused."""
    return replace(group, refusal=refusal)


def left_alone(group: ChannelGroup) -> str:
    """Why nothing of a group may go, "" when something may."""
    if bool(group.prunable.any()):
        return ""
    return "; ".join(dict.fromkeys(filter(None, group.protected))) or (group.refusal or ("", "", ""))[2]
