"""Oracles of the heads that change the last layer, or what goes into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsense.detector import Scored
from sparsense.oracles.features import last_linear, weights
from sparsense.oracles.oracle import ORACLES

Array = NDArray[np.float64]


def shaped_energy(module: nn.Module, inputs: Tensor, shape: Callable[[Array], Array]) -> Array:
    """-logsumexp of the last layer's answer to shaped features, sample by sample."""
    layer, found = last_linear(module, inputs)
    weight, bias = weights(layer)
    return np.array([-_log_sum_exp(weight @ shape(h) + bias) for h in found])


def _log_sum_exp(logits: Array) -> Any:
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max()


def _kept(h: Array, percentile: float) -> Array:
    """Features that are not below the smallest of those to keep."""
    count = max(len(h) - round(len(h) * percentile / 100), 1)
    return np.where(h >= np.sort(h)[-count], h, 0)


@ORACLES.register("react")
def react(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Features cut off from above."""
    ceiling = scored.head.state()["ceiling"]
    return shaped_energy(module, inputs, lambda h: np.minimum(h, ceiling))


@ORACLES.register("vra")
def vra(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Features rectified from both sides."""
    low, high = scored.head.state()["bounds"]
    raised: float = scored.head.raised  # type: ignore[attr-defined]
    return shaped_energy(
        module, inputs, lambda h: np.array([0 if x < low else high if x > high else x + raised for x in h])
    )


@ORACLES.register("ash")
def ash(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """The three kinds, as they are defined."""
    head: Any = scored.head

    def shape(h: Array) -> Array:
        kept = _kept(h, head.percentile)
        if head.kind == "b":
            count = max(len(h) - round(len(h) * head.percentile / 100), 1)
            return np.where(kept > 0, h.sum() / count, 0)
        return kept * (np.exp(h.sum() / kept.sum()) if head.kind == "s" and kept.sum() else 1)

    return shaped_energy(module, inputs, shape)


@ORACLES.register("scale")
def scale(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """All features times exp(s1 / s2)."""
    percentile: float = scored.head.percentile  # type: ignore[attr-defined]

    def shape(h: Array) -> Array:
        kept = _kept(h, percentile).sum()
        return h * np.exp(h.sum() / kept) if kept else h

    return shaped_energy(module, inputs, shape)


@ORACLES.register("dice")
def dice(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """A last layer with most weights gone."""
    layer, found = last_linear(module, inputs)
    weight, bias = weights(layer)
    contribution = weight * scored.head.state()["mean"]
    percentile: float = scored.head.percentile  # type: ignore[attr-defined]
    kept = weight * (contribution > np.percentile(contribution, percentile))
    return np.array([-_log_sum_exp(kept @ h + bias) for h in found])
