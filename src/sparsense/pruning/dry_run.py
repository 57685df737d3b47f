"""What could be pruned, before anything is: groups, costs, and the reason where nothing can go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sparsense.pruning.budget import budget_of
from sparsense.pruning.channels import tried_groups
from sparsense.pruning.cost import Cost, measure_cost, measure_positions
from sparsense.pruning.grouping import Element, Stays, left_alone
from sparsense.pruning.heads import find_attention, why_no_head_may_go
from sparsense.pruning.plan import ChannelOptions
from sparsense.pruning.protect import Example, Ignore, ignored_layers, output_layers
from sparsense.recording.layers import layouts, prunable_weights


@dataclass(frozen=True)
class DryRow:
    """One group of coupled channels.

    Args:
        producers: Layers that make the channels.
        coupled: Layers that are cut with them.
        width: Channels, summed over the producers.
        units: In how many pieces they can go.
        parameters: Share of the network's parameters that goes when half of the units go.
        multiply_adds: The same of its multiply-adds.
        left_alone: Why nothing can go, "" when it can.
    """

    producers: tuple[str, ...]
    coupled: tuple[str, ...]
    width: int
    units: int
    parameters: float
    multiply_adds: float
    left_alone: str


@dataclass(frozen=True)
class DryRun:
    """All parts of a network that could go, and what it costs now; `str()` is a table."""

    rows: tuple[DryRow, ...]
    cost: Cost
    things: str = "units"

    def __str__(self) -> str:
        head = ("made by", "also cut", "width", self.things, "parameters", "multiply-adds", "left alone because")
        body = [
            (
                _names(row.producers), _names(row.coupled), str(row.width), str(row.units),
                f"{row.parameters:.1%}", f"{row.multiply_adds:.1%}", row.left_alone,
            )
            for row in self.rows
        ]  # fmt: skip
        sizes = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
        lines = ["  ".join(text.ljust(size) for text, size in zip(line, sizes, strict=True)).rstrip()
                 for line in (head, *body)]  # fmt: skip
        total = f"{self.cost.parameters:,} parameters, {self.cost.multiply_adds:,} multiply-adds per sample"
        return "\n".join([total, f"shares: what goes with half of the {self.things}", *lines])


def dry_run(module: nn.Module, example_input: Example, *, ignore: Ignore = ()) -> DryRun:
    """Find out, by trying, which channels of a network could be removed; the network is not changed.

    One unit of every group is cut from a copy and the cut is proved, so a group without a reason can be pruned.

    Args:
        module: Any network.
        example_input: One batch (or a tuple of arguments), reaching every layer.
        ignore: Layers to leave alone.

    Raises:
        UnsupportedLayerError: The network cannot be traced at all.
        InputError: An entry of `ignore` matches nothing.
    """
    groups = tried_groups(module, example_input, ChannelOptions(ignore=ignore, unsupported="keep"))
    budget = budget_of(module, groups, measure_positions(module, example_input))
    rows = []
    for group in groups:
        half = group.removed_channels(torch.arange(group.units) < group.units // 2)
        rows.append(
            DryRow(
                producers=group.producers,
                coupled=group.coupled,
                width=int(group.channels_per_unit().sum()),
                units=group.units,
                parameters=budget.share("parameters", half, 0),
                multiply_adds=budget.share("multiply_adds", half, 0),
                left_alone=left_alone(group),
            )
        )
    return DryRun(tuple(rows), measure_cost(module, example_input))


def dry_run_weights(module: nn.Module, example_input: Example, *, ignore: Ignore = ()) -> DryRun:
    """Find out which weight tensors could be masked; the network is not changed.

    Args:
        module: Any network.
        example_input: One batch (or a tuple of arguments).
        ignore: Layers to leave alone.

    Raises:
        UnsupportedLayerError: A weight that is computed from others.
        InputError: An entry of `ignore` matches nothing.
    """
    cost = measure_cost(module, example_input)
    stays = Stays(ignored_layers(module, ignore), output_layers(module, example_input))
    rows = []
    for name, weight in prunable_weights(module).items():
        layer, size = name.rpartition(".")[0], weight.numel()
        rows.append(
            DryRow(
                producers=(layer,),
                coupled=(),
                width=len(layouts(module)[name].filters(weight)),
                units=size,
                parameters=size / 2 / cost.parameters,
                multiply_adds=cost.by_layer.get(layer, 0) / 2 / max(cost.multiply_adds, 1),
                left_alone=stays.reason(Element(layer, "out", 0)),
            )
        )
    return DryRun(tuple(rows), cost, "weights")


def dry_run_heads(module: nn.Module, example_input: Example) -> DryRun:
    """Find out, by trying, which attention heads could be removed; the network is not changed.

    Args:
        module: Any network.
        example_input: One batch (or a tuple of arguments).
    """
    cost = measure_cost(module, example_input)
    rows = []
    for attention in find_attention(module):
        layers = (*(name for name, _ in attention.makers), attention.reader)
        weights = sum(module.get_parameter(f"{layer}.weight").numel() for layer in layers)
        multiplied = sum(cost.by_layer.get(layer, 0) for layer in layers)
        rows.append(
            DryRow(
                producers=tuple(name for name, _ in attention.makers),
                coupled=(attention.reader,),
                width=int(module.get_parameter(f"{attention.reader}.weight").shape[1]),
                units=attention.heads,
                parameters=weights / 2 / cost.parameters,
                multiply_adds=multiplied / 2 / max(cost.multiply_adds, 1),
                left_alone=why_no_head_may_go(module, attention, example_input),
            )
        )
    return DryRun(tuple(rows), cost, "heads")


def _names(names: Sequence[str], limit: int = 3) -> str:
    more = f" (+{len(names) - limit})" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
