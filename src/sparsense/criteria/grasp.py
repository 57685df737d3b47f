"""GraSP: remove the weights whose removal raises the gradient flow."""

from __future__ import annotations

import torch

from sparsense.criteria.criterion import Saliency, Weights, criterion, moment
from sparsense.sensitivity import SensitivityRecord


@criterion(
    "grasp",
    needs=("hessian_gradient",),
    signed=True,
    advice="Only for networks at initialisation, globally: it destroys a trained network (30 % of the weights of a "
    "ResNet-20 take its accuracy from 91 % to 13 %).",
)
def grasp(weights: Weights, record: SensitivityRecord, /) -> Saliency:
    """w_j (H g)_j minus its smallest value over all weights.

    Removing weight j changes |g|^2 by -2 w_j (H g)_j to first order; the paper removes the weights with the
    highest -w (H g). The shift makes the signed score `>= 0` and keeps its order, so a zero weight is not the
    least salient one. Record with temperature 200 as in the paper. Channels, of which the paper does not speak, are
    compared by the mean of their weights, so that the shift does not count (`sparsense.pruning.plan.comparing`).

    Args:
        weights: Parameter name -> weight.
        record: With the moment `hessian_gradient`.

    Returns:
        Parameter name -> saliency `>= 0`; the least is 0.

    Reference:
        Wang et al., "Picking winning tickets before training by preserving gradient flow", ICLR 2020,
        arXiv:2002.07376.
    """
    products = {n: w.detach().double() * moment(record, "hessian_gradient", n, w) for n, w in weights.items()}
    if not products:
        return {}
    least = torch.stack([product.min() for product in products.values()]).min()
    return {name: product - least for name, product in products.items()}
