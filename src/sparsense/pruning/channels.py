"""Removing channels: torch_pruning says what is coupled; saliency, choice, cut and proof are ours."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn

from sparsense.errors import InputError, UnsupportedLayerError
from sparsense.pruning.axes import channels
from sparsense.pruning.budget import Budget, budget_of
from sparsense.pruning.cost import measure_cost, measure_positions
from sparsense.pruning.grouping import (
    INPUT,
    Element,
    Stays,
    groups_of,
    join_blocks,
    left_alone,
    makers,
    refuse_recurrent,
    refuse_unreached,
    refused,
    widths,
    with_refusal,
)
from sparsense.pruning.groups import ChannelGroup
from sparsense.pruning.plan import ChannelOptions, Plan, choose, choose_shares, unit_saliency
from sparsense.pruning.proof import DisproofError, attempt, bare_copy, prove
from sparsense.pruning.protect import Example, as_arguments, ignored_layers, output_layers, tensors_of
from sparsense.pruning.report import PruneReport, group_reports
from sparsense.pruning.sequence import ChannelScope
from sparsense.pruning.shares import shares_by_pattern
from sparsense.pruning.surgery import cut_
from sparsense.pruning.unions import Unions
from sparsense.recording.layers import prunable_layers

TRACE_ERRORS = (IndexError, KeyError, ValueError, TypeError, AttributeError, AssertionError, RuntimeError)
"""What torch_pruning raises when it cannot follow a network."""

DEFAULTS = ChannelOptions()


def prune_channels(
    module: nn.Module,
    example_input: Example,
    saliency: Mapping[str, Tensor],
    *,
    sparsity: float,
    scope: ChannelScope = "global",
    options: ChannelOptions = DEFAULTS,
) -> PruneReport:
    """Remove the least salient channels of a copy of a network, and prove that the rest is unchanged.

    Coupled channels (residual sums, depthwise convolutions, flattened maps, norms, heads) go together; their
    saliency is that of all coupled weights. Channels of the output and those fed by the input stay. The result
    keeps each parameter's `requires_grad`; `rebind_optimizer_` makes an optimiser follow.

    Args:
        module: The network; it is not changed.
        example_input: One batch of at least one sample (or a tuple of arguments), reaching every layer.
        saliency: Prunable weight -> saliency of its weights, `>= 0`, higher = keep.
        sparsity: Share of `options.measure` to remove, in [0, 1).
        scope: Compare all units with each other (`global`), those within a submodule (`block`), take the same
            share of every group (`layer`), or shares that grow with an amount.
        options: How to compare, what must stay.

    Returns:
        The report, with the pruned network.

    Raises:
        UnsupportedLayerError: A layer that cannot be cut; ignoring it (or `unsupported="keep"`) leaves its
            group alone.
        InputError: A target that cannot be reached, or nothing to prune.
    """

    def chosen(groups: Sequence[ChannelGroup], saliencies: Sequence[Tensor], budget: Budget) -> Plan:
        return choose(groups, saliencies, sparsity=sparsity, scope=scope, budget=budget, options=options)

    return _pruned(module, example_input, saliency, chosen, asked=sparsity, options=options)


def prune_channel_shares(
    module: nn.Module,
    example_input: Example,
    saliency: Mapping[str, Tensor],
    ratios: Mapping[str, float],
    *,
    options: ChannelOptions = DEFAULTS,
) -> PruneReport:
    """Remove given shares of the channels of layers, the least salient ones, as `prune_channels` does.

    Args:
        module: The network; it is not changed.
        example_input: One batch (or a tuple of arguments), reaching every layer.
        saliency: Prunable weight -> saliency of its weights.
        ratios: Name pattern -> share of the channels of the layers that fit; others keep all they have. Of
            coupled layers, and of several patterns that fit, the last pattern counts.
        options: How to compare, what must stay; the floor is 0 (one unit stays) unless given.

    Raises:
        UnsupportedLayerError: As `prune_channels`.
        InputError: A pattern that fits no layer that can be pruned, or a share outside [0, 1).
    """
    if wrong := {pattern: share for pattern, share in ratios.items() if not 0 <= share < 1}:
        raise InputError(f"ratios must lie in [0, 1); got {wrong}")

    def chosen(groups: Sequence[ChannelGroup], saliencies: Sequence[Tensor], _budget: Budget) -> Plan:
        shares = shares_by_pattern(ratios, [group.producers for group in groups])
        return choose_shares(groups, saliencies, shares, options)

    return _pruned(module, example_input, saliency, chosen, asked=max(ratios.values(), default=0.0), options=options)


def _pruned(
    module: nn.Module,
    example_input: Example,
    saliency: Mapping[str, Tensor],
    choose_plan: Callable[[Sequence[ChannelGroup], Sequence[Tensor], Budget], Plan],
    *,
    asked: float,
    options: ChannelOptions,
) -> PruneReport:
    """Choose, cut and prove; groups that turn out not to be what they seemed are refused, and it starts again."""
    groups = channel_groups(module, example_input, options)
    budget = budget_of(module, groups, measure_positions(module, example_input))
    while True:
        free = [group for group in groups if not left_alone(group)]
        _refuse_nothing(groups, free)
        saliencies = [unit_saliency(module, group, saliency, options) for group in free]
        plan = choose_plan(free, saliencies, budget)
        pruned = deepcopy(module)
        cut_(pruned, plan.removal())
        try:
            proof = prove(module, pruned, plan.removal(), example_input)
        except DisproofError as disproof:
            groups = _blamed(module, groups, plan, example_input, disproof)
            _raise_refused(groups, options)
            continue
        removed = {group.name: units for group, units in zip(plan.groups, plan.removed, strict=True)}
        return PruneReport(
            module=pruned,
            groups=group_reports(groups, removed),
            widths_before=widths(module),
            widths_after=widths(pruned),
            before=measure_cost(module, example_input),
            after=measure_cost(pruned, example_input),
            asked=asked,
            reached=budget.share(options.measure, plan.removal(), plan.channels()),
            measure=options.measure,
            proof=proof,
            removal=plan.removal(),
        )


def channel_groups(module: nn.Module, example_input: Example, options: ChannelOptions = DEFAULTS) -> list[ChannelGroup]:
    """All groups of coupled channels of a network, with what protects them or why they cannot be cut.

    Args:
        module: The network; it is not changed.
        example_input: One batch (or a tuple of arguments), reaching every layer.
        options: Only `ignore` and `unsupported` count.

    Raises:
        UnsupportedLayerError: The network cannot be traced, the example misses a layer, or (with
            `unsupported="raise"`) there is a group that cannot be cut and is not ignored.
        InputError: An entry of `ignore` matches nothing.
    """
    prunable_layers(module)  # refuses weights that are computed from others
    refuse_recurrent(module)
    stays = Stays(ignored_layers(module, options.ignore), output_layers(module, example_input))
    groups = groups_of(module, _units(module, example_input), stays)
    refuse_unreached(module, groups, stays)
    _raise_refused(groups, options)
    return groups


def _raise_refused(groups: Sequence[ChannelGroup], options: ChannelOptions) -> None:
    bad = [group for group in groups if group.refusal is not None and not all(group.protected)]
    if bad and options.unsupported == "raise":
        raise refused(bad)


def _refuse_nothing(groups: Sequence[ChannelGroup], free: Sequence[ChannelGroup]) -> None:
    if not free:
        reasons = "; ".join(f"{group.name}: {left_alone(group)}" for group in groups) or "it has no layer with channels"
        raise InputError(f"no channel of the network can be removed: {reasons}")


def _blamed(
    module: nn.Module, groups: Sequence[ChannelGroup], plan: Plan, example_input: Example, disproof: DisproofError
) -> list[ChannelGroup]:
    """Cut the groups of a failed plan one by one, and refuse those that fail alone."""
    refusals: dict[str, tuple[str, str, str]] = {}
    for group, removed in zip(plan.groups, plan.removed, strict=True):
        try:
            attempt(module, Plan([group], [removed]).removal(), example_input)
        except DisproofError as alone:
            layer = alone.layer or group.name
            refusals[group.name] = (layer, type(module.get_submodule(layer)).__name__, alone.reason)
    if not refusals:
        raise UnsupportedLayerError(disproof.layer, disproof.kind, disproof.reason) from disproof
    return [with_refusal(g, refusals[g.name]) if g.name in refusals else g for g in groups]


def _units(module: nn.Module, example_input: Example) -> list[list[Element]]:
    """Sets of channels that must go together, from the dependency graph of torch_pruning."""
    twin = bare_copy(module)
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    # Inputs are traced like parameters, so channels that meet the input (a sum with it) are seen to be coupled.
    inputs = tuple(nn.Parameter(x.clone()) if _traceable(x) else x for x in as_arguments(example_input))
    watched = [x for x in inputs if isinstance(x, nn.Parameter)]
    graph = tp.DependencyGraph()
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph.build_dependency(
                twin, inputs, output_transform=tensors_of,
                unwrapped_parameters=[tp._helpers.UnwrappedParameters(x, 1) for x in watched],
                customized_pruners={}, ignored_layers=[], ignored_params=[], verbose=False,
            )  # fmt: skip
            unions = _walk(graph, makers(twin), _names(twin, watched))
    except TRACE_ERRORS as error:
        raise UnsupportedLayerError(
            "", type(module).__name__, f"its channels cannot be traced ({type(error).__name__}: {error})"
        ) from error
    join_blocks(unions, module)
    return unions.sets()


def _traceable(tensor: Tensor) -> bool:
    # torch_pruning takes a three-axis parameter for a position embedding and then misreads concatenations.
    return tensor.is_floating_point() and tensor.ndim in (2, 4, 5)


def _names(twin: nn.Module, inputs: Sequence[Tensor]) -> dict[int, str]:
    named: dict[int, str] = {id(part): name for name, part in twin.named_modules()}
    named.update({id(parameter): name for name, parameter in twin.named_parameters()})
    named.update({id(x): INPUT for x in inputs})
    return named


def _walk(graph: Any, producers: Mapping[str, nn.Module], names: Mapping[int, str]) -> Unions[Element]:
    """Follow every channel of every layer through the graph, and join what it meets."""
    unions: Unions[Element] = Unions()
    for layer in producers.values():
        node = graph.module2node.get(layer)
        if node is not None:
            handler = graph.get_pruner_of_module(layer).prune_out_channels
            _follow(unions, node, handler, range(channels(layer, "out")), names)
    return unions


def _follow(unions: Unions[Element], node: Any, handler: Any, indices: Iterable[int], names: Mapping[int, str]) -> None:
    new = [index for index in indices if _element(node, handler, index, names) not in unions]
    for index in new:
        unions.add(_element(node, handler, index, names))
    queue = [(node, handler, new)]
    while queue:
        node, handler, new = queue.pop()
        for dependency in node.dependencies:
            if dependency.is_triggered_by(handler):
                reached = []
                for source, target in _mapped(dependency, new):
                    element = _element(dependency.target, dependency.handler, target, names)
                    if element not in unions:
                        reached.append(target)
                    unions.join(_element(node, handler, source, names), element)
                if reached:
                    queue.append((dependency.target, dependency.handler, reached))


def _mapped(dependency: Any, indices: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs (channel before, channel behind) of one edge of the graph."""
    hybrid = [tp._helpers._HybridIndex(idx=index, root_idx=index) for index in indices]
    for mapping in dependency.index_mapping:
        if mapping is not None and hybrid:
            hybrid = mapping(hybrid)
    return [(entry.root_idx, entry.idx) for entry in hybrid]


def _element(node: Any, handler: Any, index: int, names: Mapping[int, str]) -> Element:
    side: Literal["in", "out"] = "in" if handler.__name__ == "prune_in_channels" else "out"
    return Element(names.get(id(node.module), f"({id(node)})"), side, index)
