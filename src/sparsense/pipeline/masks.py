"""Which single weights go in one step, as a recipe asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from torch import Tensor

from sparsense.errors import InputError
from sparsense.networks.network import Network, example_input
from sparsense.pipeline.amount import mask_for_share, share_of_weights
from sparsense.pruning.mask import Mask
from sparsense.pruning.patterns import select_blocks, select_n_of_m
from sparsense.pruning.select import Scope, select, select_shares
from sparsense.pruning.shares import Shares, shares_by_pattern
from sparsense.pruning.weights import unprotected
from sparsense.recipe.prune import PruneSection
from sparsense.recording.layers import layouts


def step_mask(
    network: Network,
    saliency: Mapping[str, Tensor],
    section: PruneSection,
    share: float,
    *,
    gone: Mask,
    shares: Shares | None = None,
) -> Mask:
    """The mask after a step.

    Args:
        network: As it is now.
        saliency: Of its weights.
        section: What is asked.
        share: Of the dense network, in the measure of the section, that is gone after the step.
        gone: What was masked before; it stays masked.
        shares: For the scope `sensitivity`: amount -> share of every weight.
    """
    module, shapes = network.module, layouts(network.module)
    saliency = unprotected(module, saliency, ignore=section.ignore, example_input=example_input(network.input_shape))
    if section.pattern is not None:
        return _patterned(saliency, section.pattern, share, network)
    if section.ratios:
        return select_shares(saliency, _weight_shares(saliency, section.ratios))

    def mask_at(amount: float) -> Mask:
        if shares is not None:
            return select_shares(saliency, shares(amount))
        scope = cast(Scope, section.scope)
        return select(saliency, sparsity=amount, scope=scope, floor=section.floor, layouts=shapes, gone=gone)

    if section.measure is None and shares is None:
        return mask_at(share)
    measured = (
        _sparsity
        if section.measure is None
        else share_of_weights(module, example_input(network.input_shape), section.measure)
    )
    return mask_for_share(_or_none(mask_at), measured, share)


def _sparsity(mask: Mask) -> float:
    return mask.sparsity


def _or_none(mask_at: Callable[[float], Mask]) -> Callable[[float], Mask | None]:
    """The same, None where so much cannot go."""

    def found(amount: float) -> Mask | None:
        try:
            return mask_at(amount)
        except InputError:
            return None

    mask_at(0.0)  # what is wrong whatever the amount is said now
    return found


def _weight_shares(saliency: Mapping[str, Tensor], ratios: Mapping[str, float]) -> dict[str, float]:
    shares = shares_by_pattern(ratios, [(name.rpartition(".")[0],) for name in saliency])
    return {f"{layer}.weight": share for layer, share in shares.items()}


def _patterned(saliency: Mapping[str, Tensor], pattern: str, share: float, network: Network) -> Mask:
    shapes = layouts(network.module)
    if ":" in pattern:
        n, m = map(int, pattern.split(":"))
        return select_n_of_m(saliency, n=n, m=m, layouts=shapes)
    rows, columns = map(int, pattern.split("x"))
    return select_blocks(saliency, sparsity=share, block=(rows, columns), layouts=shapes)
