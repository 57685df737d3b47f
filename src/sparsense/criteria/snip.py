"""SNIP: how much the loss reacts to a connection's presence."""

from __future__ import annotations

import torch

from sparsense.criteria.criterion import Saliency, Weights, criterion, moment
from sparsense.sensitivity import SensitivityRecord


@criterion("snip", needs=("gradient",), advice="For networks at or near initialisation.")
def snip(weights: Weights, record: SensitivityRecord, /) -> Saliency:
    """|w_j g_j| / sum over all weights of |w_k g_k|, with g the mean gradient.

    Args:
        weights: Parameter name -> weight.
        record: With the moment `gradient`; the paper uses the cross-entropy of labelled samples.

    Returns:
        Parameter name -> saliency in [0, 1]; all of them sum to 1 (0 when every gradient is 0).

    Reference:
        Lee et al., "SNIP: single-shot network pruning based on connection sensitivity", ICLR 2019,
        arXiv:1810.02340.
    """
    products = {n: (w.detach().double() * moment(record, "gradient", n, w)).abs() for n, w in weights.items()}
    total = torch.stack([product.sum() for product in products.values()]).sum() if products else torch.ones(())
    scale = total.clamp_min(torch.finfo(torch.float64).tiny)
    return {name: product / scale for name, product in products.items()}
