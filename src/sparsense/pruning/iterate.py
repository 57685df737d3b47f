"""Pruning in steps: record, select, mask or cut, again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sparsense.criteria import CRITERIA
from sparsense.errors import InputError
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.mask import Mask
from sparsense.pruning.plan import ChannelOptions, comparing
from sparsense.pruning.protect import Example, Ignore
from sparsense.pruning.report import PruneReport
from sparsense.pruning.select import Scope, select
from sparsense.pruning.sequence import ChannelScope
from sparsense.pruning.weights import unprotected
from sparsense.recording.layers import layouts, prunable_weights
from sparsense.recording.passes import Source, saliency_of

Between = Callable[[nn.Module, float], object]
"""Called with the network and its sparsity after every step, for fine-tuning or measuring."""


@dataclass(frozen=True)
class Scoring:
    """How saliency is made anew in every step.

    Args:
        criterion: A name in `CRITERIA`.
        source: Data, for criteria that need it.
        options: Of the criterion.
    """

    criterion: str
    source: Source | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def of(self, module: nn.Module) -> dict[str, Any]:
        """The saliency of a network as it is now."""
        return saliency_of(module, self.criterion, self.source, **self.options)


def mask_in_steps(
    module: nn.Module,
    scoring: Scoring,
    sparsities: Sequence[float],
    *,
    scope: Scope = "global",
    ignore: Ignore = (),
    between: Between = lambda _module, _sparsity: None,
) -> Mask:
    """Mask weights in steps, in place: what went stays away, what is left is judged anew.

    Args:
        module: Masked in place.
        scoring: Makes the saliency in every step, of the network as masked so far.
        sparsities: After each step, as from a schedule; must not fall.
        scope: See `select`.
        ignore: Layers to leave alone. The layers that make the output are protected: found by running the inputs of
            `scoring.source`; without them the layer that was registered last counts as the output.
        between: Called after every step; training in it must keep the mask (`mask.apply_` after each update).

    Returns:
        The last mask.
    """
    if list(sparsities) != sorted(sparsities) or not sparsities:
        raise InputError(f"sparsities must not fall and there must be one; got {list(sparsities)}")
    mask = Mask({})
    example = None if scoring.source is None else torch.as_tensor(scoring.source.inputs[:1])
    for sparsity in sparsities:
        saliency = unprotected(module, scoring.of(module), ignore=ignore, example_input=example)
        mask = select(saliency, sparsity=sparsity, scope=scope, layouts=layouts(module), gone=mask)
        mask.apply_(module)
        between(module, sparsity)
        mask.apply_(module)
    return mask


def cut_in_steps(
    module: nn.Module,
    example_input: Example,
    scoring: Scoring,
    sparsities: Sequence[float],
    *,
    scope: ChannelScope = "global",
    options: ChannelOptions | None = None,
    between: Between = lambda _module, _sparsity: None,
) -> list[PruneReport]:
    """Remove channels in steps, each from the network of the step before; the given one is not changed.

    Args:
        module: The network.
        example_input: One batch (or a tuple of arguments).
        scoring: Makes the saliency in every step.
        sparsities: Shares of the *first* network that are gone after each step; must grow.
        scope: See `prune_channels`.
        options: See `prune_channels`; what suits the criterion when left out.
        between: Called with the smaller network after every step; may train it in place.

    Returns:
        One report per step; the last one has the network.
    """
    options = comparing(scoring.criterion) if options is None else options
    reports: list[PruneReport] = []
    left = 1.0
    for sparsity in sparsities:
        share = 1 - (1 - sparsity) / left
        if share <= 0:
            continue  # rounding has taken this step already
        current = reports[-1].module if reports else module
        report = prune_channels(
            current, example_input, scoring.of(current), sparsity=share, scope=scope, options=options
        )
        left *= 1 - report.reached
        reports.append(report)
        between(report.module, 1 - left)
    return reports


@dataclass
class Gradual:
    """Masks more and more weights while a network trains; an `after_step` of the training loop.

    Every `every` steps the next target of the schedule is selected by magnitude; after every step the mask is
    put back. What was masked stays masked.

    Args:
        module: The network in training.
        sparsities: As from `cubic`; one is used up every `every` steps, after `begin` steps.
        begin: Steps before the first.
        every: Steps between two.
        scope: See `select`.
        ignore: Layers to leave alone; the last layer is protected.
    """

    module: nn.Module
    sparsities: Sequence[float]
    begin: int = 0
    every: int = 1
    scope: Scope = "global"
    ignore: Ignore = ()
    step: int = 0
    mask: Mask = field(default_factory=lambda: Mask({}))

    def __call__(self) -> None:
        """Count one step; select anew when it is time; put the mask back."""
        self.step += 1
        turn, rest = divmod(self.step - self.begin - 1, self.every)
        if turn >= 0 and rest == 0 and turn < len(self.sparsities):
            saliency = CRITERIA["magnitude"](prunable_weights(self.module))
            self.mask = select(
                unprotected(self.module, saliency, ignore=self.ignore), sparsity=self.sparsities[turn],
                scope=self.scope, layouts=layouts(self.module), gone=self.mask,
            )  # fmt: skip
        self.mask.apply_(self.module)

    def state(self) -> dict[str, Any]:
        """What is needed to go on after an interruption."""
        return {"step": self.step, "keep": {name: keep.clone() for name, keep in self.mask.keep.items()}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.step, self.mask = state["step"], Mask(state["keep"])
