"""Geometric median: a filter close to all others can be replaced by them."""

from __future__ import annotations

import torch

from sparsense.criteria.criterion import Layouts, Saliency, Weights, criterion, shared
from sparsense.criteria.layout import Layout
from sparsense.sensitivity import SensitivityRecord


@criterion("fpgm", filters=True, advice="Channels of trained networks, layer by layer; needs no data.")
def fpgm(weights: Weights, _record: SensitivityRecord | None = None, /, *, layouts: Layouts | None = None) -> Saliency:
    """Sum of the Euclidean distances from a filter to all filters of its layer.

    The filters nearest to the layer's geometric median are the least salient, however large they are, so a
    zero filter is not the least. Sums grow with the layer: use the scope `layer`.

    Args:
        weights: Parameter name -> weight.
        layouts: How channels lie in weights; output channels first by default.

    Returns:
        Parameter name -> saliency `>= 0`; the weights of a channel are equal and sum to the channel's.

    Reference:
        He et al., "Filter pruning via geometric median for deep convolutional neural networks acceleration",
        CVPR 2019, arXiv:1811.00250.
    """
    saliency = {}
    for name, weight in weights.items():
        layout = (layouts or {}).get(name, Layout())
        filters = layout.filters(weight.detach()).double()
        # The direct form: differences of squares would lose small distances between large filters.
        distances = torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist")
        saliency[name] = shared(distances.sum(1), weight, layout)
    return saliency
