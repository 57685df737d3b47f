"""One step of pruning as a recipe asks for it: channels, single weights or attention heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import cast

from torch import Tensor

from sparsense.networks.network import Network, example_input
from sparsense.pipeline.masks import step_mask
from sparsense.pruning.channels import channel_groups, prune_channel_shares, prune_channels
from sparsense.pruning.groups import Removal
from sparsense.pruning.heads import prune_heads
from sparsense.pruning.mask import Mask
from sparsense.pruning.plan import ChannelOptions, comparing
from sparsense.pruning.sequence import ChannelScope
from sparsense.pruning.shares import Shares
from sparsense.recipe.prune import PruneSection

FAST_WIDTHS = 8
"""ONNX Runtime's kernels like widths that are multiples of it."""


@dataclass(frozen=True)
class Cut:
    """A network on its way.

    Args:
        network: As it is now.
        mask: The weights that are kept; empty for channels and heads.
        removal: Channels that went in the last step.
        reached: Share of the asked measure that is gone since the beginning.
        proof: Largest difference so far between removing and masking.
        left_alone: What could not be cut, with the reason.
    """

    network: Network
    mask: Mask = field(default_factory=lambda: Mask({}))
    removal: Removal = field(default_factory=dict)
    reached: float = 0.0
    proof: float = 0.0
    left_alone: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What all steps together are to reach.

    Args:
        section: Of the recipe.
        least: First producer of a group -> units that stay at the end.
        shares: For the scope `sensitivity`: amount -> share of every layer.
    """

    section: PruneSection
    least: Mapping[str, int] = field(default_factory=dict)
    shares: Shares | None = None


def cut(before: Cut, saliency: Mapping[str, Tensor], asked: Asked, share: float) -> Cut:
    """Prune a copy of a network until `share` of the dense one is gone.

    Args:
        before: Where the steps so far have led.
        saliency: Of the network as it is now.
        asked: What all steps are to reach.
        share: Of the dense network, in the measure of the section, after this step.
    """
    return {"channel": _cut_channels, "weight": _mask_weights, "head": _cut_heads}[asked.section.structure](
        before, saliency, asked, share
    )


def channel_options(section: PruneSection, least: Mapping[str, int] | None = None) -> ChannelOptions:
    """What the engine is told about channels."""
    in_time = section.speedup is not None or section.milliseconds is not None
    return comparing(
        section.criterion,
        measure=section.measure or "channels",
        floor=section.floor,
        least=least or {},
        round_to=section.round_to or (FAST_WIDTHS if in_time else 1),
        ignore=section.ignore,
        unsupported=section.unsupported,
    )


def least_units(network: Network, section: PruneSection, share: float) -> dict[str, int]:
    """Units that stay at the end, so that floors do not shrink from step to step."""
    groups = channel_groups(network.module, example_input(network.input_shape), channel_options(section))
    floor = (1 - share) / 10 if section.floor is None else section.floor
    return {group.name: math.ceil(floor * group.units - 1e-9) for group in groups}


def _cut_channels(before: Cut, saliency: Mapping[str, Tensor], asked: Asked, share: float) -> Cut:
    section, network = asked.section, before.network
    example, options = example_input(network.input_shape), channel_options(section, asked.least)
    if section.ratios:
        report = prune_channel_shares(network.module, example, saliency, section.ratios, options=options)
    else:
        left = max(0.0, 1 - (1 - share) / (1 - before.reached))
        scope = cast(ChannelScope, section.scope) if asked.shares is None else asked.shares
        report = prune_channels(network.module, example, saliency, sparsity=left, scope=scope, options=options)
    gone = 1 - (1 - before.reached) * (1 - report.reached)
    smaller = replace(network, module=report.module)
    refused = [f"{', '.join(group.producers)}: {group.refusal}" for group in report.groups if group.refusal]
    return Cut(smaller, before.mask, report.removal, gone, max(before.proof, report.proof), tuple(refused))


def _mask_weights(before: Cut, saliency: Mapping[str, Tensor], asked: Asked, share: float) -> Cut:
    mask = step_mask(before.network, saliency, asked.section, share, gone=before.mask, shares=asked.shares)
    module = deepcopy(before.network.module)
    mask.apply_(module)
    return Cut(replace(before.network, module=module), mask, reached=mask.sparsity)


def _cut_heads(before: Cut, saliency: Mapping[str, Tensor], _asked: Asked, share: float) -> Cut:
    network = before.network
    report = prune_heads(network.module, example_input(network.input_shape), saliency, sparsity=share)
    gone = 1 - sum(report.heads_after.values()) / sum(report.heads_before.values())
    return Cut(replace(network, module=report.module), reached=gone, proof=report.proof)
