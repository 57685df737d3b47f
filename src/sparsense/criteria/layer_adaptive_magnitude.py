"""Layer-adaptive magnitude: a weight against those that would still be there when it is removed."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsense.criteria.criterion import Saliency, Weights, criterion
from sparsense.sensitivity import SensitivityRecord


@criterion(
    "layer_adaptive_magnitude",
    advice="Magnitude with one global threshold that cannot empty a layer; trained networks, high sparsities.",
)
def layer_adaptive_magnitude(weights: Weights, _record: SensitivityRecord | None = None, /) -> Saliency:
    """w_i^2 / sum of w_j^2 over the weights j of the layer with |w_j| >= |w_i|.

    The largest weight of every layer has saliency 1. Not related to the loss amplification of another paper
    with the same short name.

    Args:
        weights: Parameter name -> weight.

    Returns:
        Parameter name -> saliency in [0, 1], shaped like the weight; an all-zero layer gets 0.

    Reference:
        Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", ICLR 2021, arXiv:2010.07611.

    Example:
        >>> layer_adaptive_magnitude({"w": torch.tensor([1.0, 2.0])})["w"].tolist()
        [0.2, 1.0]
    """
    return {name: _adapted(weight.detach().double().square()) for name, weight in weights.items()}


def _adapted(squares: Tensor) -> Tensor:
    # Equal weights are in each other's sum, so all of a run of ties share the sum at its first one.
    ordered, order = squares.flatten().sort()
    tails = ordered.flip(0).cumsum(0).flip(0)
    first_of_ties = torch.searchsorted(ordered, ordered)
    saliency = torch.empty_like(ordered)
    saliency[order] = ordered / tails[first_of_ties].clamp_min(torch.finfo(torch.float64).tiny)
    return saliency.reshape(squares.shape)
