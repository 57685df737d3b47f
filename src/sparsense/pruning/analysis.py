"""How much a network suffers when one layer alone is pruned, and the ratios that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsense.errors import InputError
from sparsense.pruning.channels import tried_groups
from sparsense.pruning.grouping import left_alone
from sparsense.pruning.groups import ChannelGroup
from sparsense.pruning.plan import ChannelOptions, plan_of, unit_saliency
from sparsense.pruning.protect import Example
from sparsense.pruning.select import select_shares
from sparsense.pruning.sequence import order_of
from sparsense.pruning.shares import Shares
from sparsense.pruning.surgery import mask_
from sparsense.recording.state import copy_of

Array = NDArray[np.float64]
Evaluate = Callable[[nn.Module], tuple[float, float | None]]
"""Network -> mean loss, and accuracy where there is one."""
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Curve:
    """What happens when a share of one weight, or of one group of coupled channels, goes and all else stays.

    Args:
        name: The weight, or the group's first producer.
        layers: The layers that are pruned.
        size: Weights, or units of the group.
        ratios: Shares that went.
        loss: Mean loss at each ratio.
        accuracy: The same, or None where there is none.
    """

    name: str
    layers: tuple[str, ...]
    size: int
    ratios: tuple[float, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...] | None


def weight_curves(
    module: nn.Module,
    saliency: Mapping[str, Tensor],
    evaluate: Evaluate,
    *,
    ratios: Sequence[float] = RATIOS,
    known: Mapping[str, Curve] | None = None,
) -> Iterator[Curve]:
    """One curve per weight tensor, as soon as it is measured.

    Args:
        module: The network; copies of it are masked.
        saliency: Of the weights to be tried, as from `unprotected`.
        evaluate: Judges a masked copy.
        ratios: Shares to try, in (0, 1).
        known: Curves that need not be measured again.
    """
    _check(ratios)
    for name, values in saliency.items():

        def pruned(ratio: float, name: str = name, values: Tensor = values) -> nn.Module:
            twin = copy_of(module)
            select_shares({name: values}, {name: ratio}).apply_(twin)
            return twin

        layers = (name.rpartition(".")[0],)
        found = (known or {}).get(name)
        yield found or _curve(name, layers, values.numel(), pruned, evaluate, ratios)


def channel_curves(
    module: nn.Module,
    example_input: Example,
    saliency: Mapping[str, Tensor],
    evaluate: Evaluate,
    *,
    options: ChannelOptions,
    ratios: Sequence[float] = RATIOS,
    known: Mapping[str, Curve] | None = None,
) -> Iterator[Curve]:
    """One curve per group of coupled channels that may be pruned, as soon as it is measured.

    The channels are masked with everything that belongs to them, which computes the same as removing them.

    Args:
        module: The network; copies of it are masked.
        example_input: One batch (or a tuple of arguments), reaching every layer.
        saliency: Prunable weight -> saliency.
        evaluate: Judges a masked copy.
        options: What is left alone, and how channels are compared.
        ratios: Shares to try, in (0, 1).
        known: Curves that need not be measured again.
    """
    _check(ratios)
    for group in tried_groups(module, example_input, options):
        if left_alone(group):
            continue
        order = order_of(group, unit_saliency(module, group, saliency, options))

        def pruned(ratio: float, group: ChannelGroup = group, order: Tensor = order) -> nn.Module:
            twin, count = copy_of(module), min(len(order), round(ratio * group.units))
            mask_(twin, plan_of([group], [order], [count]).removal())
            return twin

        found = (known or {}).get(group.name)
        yield found or _curve(group.name, group.producers, group.units, pruned, evaluate, ratios)


def equal_harm(curves: Sequence[Curve], baseline: float) -> Shares:
    """Ratios at which every layer alone would cost the same loss: robust layers lose much, delicate ones little.

    The harm of a ratio is the largest rise of the loss up to it; between measured ratios it is a straight line,
    and nothing goes beyond the largest one.

    Args:
        curves: Of all layers that may be pruned.
        baseline: The loss of the whole network.

    Returns:
        Amount in [0, 1] -> name -> ratio, never falling with the amount.

    Example:
        >>> delicate = Curve("a", ("a",), 10, (0.5,), (3.0,), None)
        >>> robust = Curve("b", ("b",), 10, (0.5,), (2.0,), None)
        >>> equal_harm([delicate, robust], 1.0)(0.5)
        {'a': 0.25, 'b': 0.5}
    """
    harms = {curve.name: np.maximum.accumulate(np.asarray([baseline, *curve.loss]) - baseline) for curve in curves}
    ratios = {curve.name: np.asarray([0.0, *curve.ratios]) for curve in curves}
    knots = np.unique(np.concatenate([*harms.values(), [0.0]]))

    def shares(amount: float) -> dict[str, float]:
        allowed = float(np.interp(amount, np.linspace(0, 1, len(knots)), knots))
        return {name: _ratio(harms[name], ratios[name], allowed) for name in harms}

    return shares


def _ratio(harm: Array, places: Array, allowed: float) -> float:
    """The largest ratio whose harm is allowed."""
    beyond = int(np.searchsorted(harm, allowed, side="right"))  # the first point that is not allowed
    if beyond == len(harm):
        return float(places[-1])
    low, high = harm[beyond - 1], harm[beyond]
    step = (allowed - low) / (high - low)
    return float(places[beyond - 1] + step * (places[beyond] - places[beyond - 1]))


@torch.no_grad()
def _curve(
    name: str,
    layers: tuple[str, ...],
    size: int,
    pruned: Callable[[float], nn.Module],
    evaluate: Evaluate,
    ratios: Sequence[float],
) -> Curve:
    found = [evaluate(pruned(ratio)) for ratio in ratios]
    accuracies = [accuracy for _, accuracy in found if accuracy is not None]
    return Curve(
        name, layers, size, tuple(ratios), tuple(loss for loss, _ in found), tuple(accuracies) if accuracies else None
    )


def _check(ratios: Sequence[float]) -> None:
    if not ratios or list(ratios) != sorted(set(ratios)) or not 0 < ratios[0] <= ratios[-1] < 1:
        raise InputError(f"the ratios of a sensitivity analysis must grow and lie in (0, 1); got {list(ratios)}")
