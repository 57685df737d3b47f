"""Removing channels: torch_pruning says what is coupled; saliency, choice, cut and proof are ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from sparsense.errors import InputError, UnsupportedLayerError
from sparsense.pruning.blame import blamed, tried
from sparsense.pruning.budget import Budget, budget_of
from sparsense.pruning.cost import measure_cost, measure_positions
from sparsense.pruning.grouping import (
    Stays,
    groups_of,
    left_alone,
    refuse_cut_off,
    refuse_recurrent,
    refuse_unreached,
    refused,
    widths,
    with_refusal,
)
from sparsense.pruning.groups import ChannelGroup
from sparsense.pruning.plan import ChannelOptions, Plan, choose, choose_shares, unit_saliency
from sparsense.pruning.proof import DisproofError, prove
from sparsense.pruning.protect import Example, called_layers, ignored_layers, output_layers
from sparsense.pruning.report import PruneReport, group_reports
from sparsense.pruning.sequence import ChannelScope
from sparsense.pruning.shares import shares_by_pattern
from sparsense.pruning.surgery import cut_
from sparsense.pruning.trace import trace_units
from sparsense.recording.layers import prunable_layers
from sparsense.recording.state import copy_of

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
        pruned = copy_of(module)
        cut_(pruned, plan.removal())
        try:
            proof = prove(module, pruned, plan.removal(), example_input)
        except DisproofError as disproof:
            groups = _without_the_guilty(module, groups, plan, example_input, disproof)
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
    units = trace_units(module, example_input)
    cut_off = refuse_unreached(module, units, called_layers(module, example_input), stays.ignored)
    if options.unsupported == "raise":
        refuse_cut_off(module, cut_off)
    groups = groups_of(module, units, stays)
    _raise_refused(groups, options)
    return groups


def tried_groups(module: nn.Module, example_input: Example, options: ChannelOptions = DEFAULTS) -> list[ChannelGroup]:
    """The same; what only a trial shows to be stuck (shuffled channels, a cut into heads) is refused, too.

    Args:
        module: As for `channel_groups`.
        example_input: As for `channel_groups`.
        options: As for `channel_groups`.

    Raises:
        UnsupportedLayerError: As `channel_groups`.
        InputError: As `channel_groups`.
    """
    groups = tried(module, channel_groups(module, example_input, options), example_input)
    _raise_refused(groups, options)
    return groups


def _raise_refused(groups: Sequence[ChannelGroup], options: ChannelOptions) -> None:
    bad = [group for group in groups if group.refusal is not None and not all(group.protected)]
    if bad and options.unsupported == "raise":
        raise refused(bad)


def _refuse_nothing(groups: Sequence[ChannelGroup], free: Sequence[ChannelGroup]) -> None:
    if not free:
        told = [f"{group.name or 'its only layer'}: {left_alone(group)}" for group in groups]
        reasons = "; ".join(told) or "it has no layer with channels"
        raise InputError(f"no channel of the network can be removed: {reasons}")


def _without_the_guilty(
    module: nn.Module, groups: Sequence[ChannelGroup], plan: Plan, example_input: Example, disproof: DisproofError
) -> list[ChannelGroup]:
    """The groups, with those refused that make a failed plan fail."""
    refusals = blamed(module, plan, example_input)
    if not refusals:
        raise UnsupportedLayerError(disproof.layer, disproof.kind, disproof.reason) from disproof
    return [with_refusal(g, refusals[g.name]) if g.name in refusals else g for g in groups]
