"""Which units of which groups go: the least salient ones, as many as the target needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsense.criteria import CRITERIA
from sparsense.errors import InputError
from sparsense.pruning.axes import along, axes_of, tensor_of
from sparsense.pruning.budget import Budget, Measure, check_measure
from sparsense.pruning.groups import ChannelGroup, Side, merged
from sparsense.pruning.protect import Ignore
from sparsense.pruning.select import checked
from sparsense.pruning.sequence import ChannelScope, order_of, share_counts, steps_of
from sparsense.pruning.surgery import is_bare


@dataclass(frozen=True)
class ChannelOptions:
    """How channels are compared, how many must stay, and what is left alone.

    Args:
        measure: What the sparsity is a share of: producer `channels` of all groups, `parameters` of the whole
            network, or `multiply_adds`.
        reduce: A unit's saliency is the `sum` or the `mean` of those of all its weights.
        count: Weights of `both` sides (also those that read the channel), or only those that make it
            (`producers`; right for criteria that judge whole filters).
        normalise: `mean` divides by the mean over the group, so that a global threshold treats groups alike;
            `none` compares units as they are (right for saliencies in units of the loss).
        floor: Least share of a group's units that stays; by default a tenth of the asked density, always one.
        least: First producer of a group -> how many units stay at least, instead of the floor.
        round_to: Widths become the nearest multiple of it where they are cut; 1 = as selected.
        ignore: Layers (patterns, types, modules) that keep all their outputs.
        unsupported: `raise` refuses a network with a group that cannot be cut, unless its producers are
            ignored; `keep` leaves such groups alone and reports them.
    """

    measure: Measure = "channels"
    reduce: Literal["sum", "mean"] = "sum"
    count: Literal["both", "producers"] = "both"
    normalise: Literal["mean", "none"] = "mean"
    floor: float | None = None
    least: Mapping[str, int] = field(default_factory=dict)
    round_to: int = 1
    ignore: Ignore = field(default=())
    unsupported: Literal["raise", "keep"] = "raise"

    def __post_init__(self) -> None:
        check_measure(self.measure)
        choices = {
            "reduce": ("sum", "mean"),
            "count": ("both", "producers"),
            "normalise": ("mean", "none"),
            "unsupported": ("raise", "keep"),
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise InputError(f"{key} must be one of {', '.join(allowed)}; got {getattr(self, key)!r}")
        if self.round_to < 1:
            raise InputError(f"round_to must be at least 1; got {self.round_to}")
        if self.floor is not None and not 0 <= self.floor <= 1:
            raise InputError(f"floor is a share of units and must lie in [0, 1]; got {self.floor}")


def comparing(criterion: str, **options: Any) -> ChannelOptions:
    """The options that suit a criterion, and others by name.

    A signed criterion has no zero of its own, only an order: a sum over a channel would count its arbitrary zero once
    per weight, and dividing by the group's mean would divide by it. So its channels are compared by their mean.
    """
    entry = CRITERIA[criterion]
    suited: dict[str, Any] = {"count": "producers" if entry.filters else "both"}
    if entry.signed:
        suited |= {"reduce": "mean", "normalise": "none"}
    return ChannelOptions(**suited | options)


def unit_saliency(
    module: nn.Module, group: ChannelGroup, saliency: Mapping[str, Tensor], options: ChannelOptions
) -> Tensor:
    """The saliency of a group's units, `[units]`: ours, summed over all weights that are coupled.

    Raises:
        InputError: No weight of the group has a saliency.
    """
    total, weights = torch.zeros(group.units, dtype=torch.float64), torch.zeros(group.units, dtype=torch.float64)
    for side, units in group.unit_of.items():
        if is_bare(module, side.layer) or (options.count == "producers" and side.side == "in"):
            continue
        layer = module.get_submodule(side.layer)
        for axis in axes_of(layer, side.side):
            values = saliency.get(f"{side.layer}.{axis.tensor}")
            tensor = tensor_of(layer, axis.tensor)
            if values is None or not isinstance(tensor, Tensor):
                continue
            _refuse_other_shape(f"{side.layer}.{axis.tensor}", values, tensor)
            per_position = checked(side.layer, values).cpu().movedim(axis.dim, 0).flatten(1)
            owner = along(units, tensor.shape[axis.dim])
            inside = owner >= 0
            total.index_add_(0, owner[inside], per_position.sum(1)[inside])
            share = torch.full((int(inside.sum()),), float(per_position.shape[1]), dtype=torch.float64)
            weights.index_add_(0, owner[inside], share)
    if not bool(weights.any()):
        raise InputError(f"no weight of the group of {', '.join(group.producers)} has a saliency; give the saliency "
                         "of all prunable weights, or ignore these layers")  # fmt: skip
    values = total / weights.clamp_min(1) if options.reduce == "mean" else total
    mean = values.mean()
    return values / mean if options.normalise == "mean" and mean > 0 else values


def _refuse_other_shape(name: str, values: Tensor, weight: Tensor) -> None:
    if values.shape != weight.shape:
        raise InputError(f"the saliency of {name!r} must have the shape of the weight, {list(weight.shape)}; it has "
                         f"{list(values.shape)}; score the network that is pruned")  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Which units go: per group a bool `[units]`."""

    groups: Sequence[ChannelGroup]
    removed: Sequence[Tensor]

    def removal(self) -> dict[Side, Tensor]:
        """The channels that go, by side."""
        return merged([g.removed_channels(r) for g, r in zip(self.groups, self.removed, strict=True)])

    def channels(self) -> int:
        """How many producer channels go."""
        return sum(int(g.channels_per_unit()[r].sum()) for g, r in zip(self.groups, self.removed, strict=True))


class UnreachableError(InputError):
    """More was asked than can go; carries the largest share that can."""

    def __init__(self, message: str, limit: float) -> None:
        self.limit = limit
        super().__init__(message)


def choose(
    groups: Sequence[ChannelGroup],
    saliencies: Sequence[Tensor],
    *,
    sparsity: float,
    scope: ChannelScope,
    budget: Budget,
    options: ChannelOptions,
) -> Plan:
    """The smallest plan that takes away the asked share.

    `global` removes the least salient units of all groups; `block` of all groups of a submodule, the same share of
    every submodule; `layer` the same share of every group. Rounding is part of the search, so a rounded plan
    reaches the target too.

    Raises:
        InputError: The target lies outside [0, 1) or beyond what can go.
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity must lie in [0, 1); got {sparsity}")
    floor = (1 - sparsity) / 10 if options.floor is None else options.floor
    orders = _orders(groups, saliencies, floor, options)
    steps = steps_of(scope, groups, orders, saliencies)

    def reached(step: int) -> float:
        made = plan_of(groups, orders, steps(step), options.round_to)
        return budget.share(options.measure, made.removal(), made.channels())

    last = sum(len(order) for order in orders)
    if (limit := reached(last)) < sparsity - 1e-9:
        message = (
            f"sparsity {sparsity} of {options.measure.replace('_', '-')} cannot be reached: at most {limit:.3g} can go "
            f"(output, ignored and refused layers stay, and every group keeps its floor{_rounding(options)}); ask for "
            "less, lower the floor, or ignore fewer layers"
        )
        raise UnreachableError(message, limit)
    step = _first(last, lambda step: reached(step) >= sparsity - 1e-9)
    return plan_of(groups, orders, steps(step), options.round_to)


def _rounding(options: ChannelOptions) -> str:
    multiple = options.round_to
    return f"; round_to {multiple} leaves layers of at most {multiple} channels as they are" if multiple > 1 else ""


def choose_shares(
    groups: Sequence[ChannelGroup],
    saliencies: Sequence[Tensor],
    shares: Mapping[str, float],
    options: ChannelOptions,
) -> Plan:
    """The plan that takes exactly these shares of the groups (first producer -> share), rounding apart."""
    floor = 0.0 if options.floor is None else options.floor
    orders = _orders(groups, saliencies, floor, options)
    return plan_of(groups, orders, share_counts(groups, orders, shares), options.round_to)


def _orders(
    groups: Sequence[ChannelGroup], saliencies: Sequence[Tensor], floor: float, options: ChannelOptions
) -> list[Tensor]:
    floors = [math.ceil(floor * group.units - 1e-9) for group in groups]
    least = [options.least.get(group.name, stays) for group, stays in zip(groups, floors, strict=True)]
    return [order_of(*row) for row in zip(groups, saliencies, least, strict=True)]


def plan_of(groups: Sequence[ChannelGroup], orders: Sequence[Tensor], counts: Sequence[int], round_to: int = 1) -> Plan:
    """The plan in which each group loses the first `counts` units of its order, widths rounded."""
    removed = []
    for group, order, count in zip(groups, orders, counts, strict=True):
        flags = torch.zeros(group.units, dtype=torch.bool)
        flags[order[: rounded(group, order, count, round_to)]] = True
        removed.append(flags)
    return Plan(groups, removed)


def rounded(group: ChannelGroup, order: Tensor, count: int, multiple: int) -> int:
    """How many units to remove so that the layers' widths are the nearest multiple.

    A group that nothing is asked of keeps its width, and so does one that is not wider than the multiple. Where
    layers of one group have parts of it only (sums over concatenations) the count stays as asked.
    """
    step = units_per_multiple(group, multiple)
    if count == 0 or step == 1:
        return count
    if group.units <= step:
        return 0
    left = group.units - count
    below = left // step * step
    possible = [u for u in (below, below + step) if step <= u and 0 <= group.units - u <= len(order)]
    return group.units - min(possible, key=lambda units: abs(units - left)) if possible else count


def units_per_multiple(group: ChannelGroup, multiple: int) -> int:
    """The least number of units that gives every producer a multiple of channels; 1 where that is undefined."""
    step = 1
    for producer in group.producers:
        units = group.unit_of[Side(producer, "out")]
        per_unit = torch.bincount(units[units >= 0], minlength=group.units)
        if int(per_unit.min()) != int(per_unit.max()):
            return 1
        step = math.lcm(step, multiple // math.gcd(multiple, int(per_unit.max())))
    return step


def _first(last: int, holds: Callable[[int], bool]) -> int:
    # The first number in [0, last] for which a monotone condition holds.
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
