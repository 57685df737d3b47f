"""Which groups of channels break a network when they are cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from sparsense.pruning.grouping import with_refusal
from sparsense.pruning.groups import ChannelGroup, Refusal
from sparsense.pruning.plan import Plan
from sparsense.pruning.proof import DisproofError, attempt, attempt_roughly, attempt_to_run
from sparsense.pruning.protect import Example

TRIALS = (attempt_to_run, attempt_roughly, attempt)
"""From cheap to costly."""


def blamed(module: nn.Module, plan: Plan, example_input: Example) -> dict[str, Refusal]:
    """The groups of a failed plan that fail alone: name -> layer, type and reason.

    Every group is put to the cheapest trial first; to a costlier one only where the cheaper ones blame nobody.

    Args:
        module: The network before.
        plan: What was cut together and could not be proved.
        example_input: One batch (or a tuple of arguments).
    """
    for trial in TRIALS:
        found = dict(_failures(trial, module, plan, example_input))
        if found:
            return found
    return {}


def tried(module: nn.Module, groups: Sequence[ChannelGroup], example_input: Example) -> list[ChannelGroup]:
    """The groups, refused where cutting their first free unit from a copy breaks the network.

    One unit of every group is cut at once, so a network in which all can be cut costs one proof.
    """
    known = list(groups)
    while True:
        free = [group for group in known if bool(group.prunable.any()) and group.units > 1]
        plan = Plan(free, [torch.arange(group.units) == group.prunable.nonzero()[0, 0] for group in free])
        try:
            attempt(module, plan.removal(), example_input)
        except DisproofError:
            refusals = blamed(module, plan, example_input)
            known = [with_refusal(g, refusals[g.name]) if g.name in refusals else g for g in known]
            if refusals:
                continue
        return known


def _failures(
    trial: Callable[..., float], module: nn.Module, plan: Plan, example_input: Example
) -> Iterable[tuple[str, Refusal]]:
    for group, removed in zip(plan.groups, plan.removed, strict=True):
        try:
            trial(module, Plan([group], [removed]).removal(), example_input)
        except DisproofError as alone:
            layer = alone.layer or group.name
            yield group.name, (layer, type(module.get_submodule(layer)).__name__, alone.reason)
