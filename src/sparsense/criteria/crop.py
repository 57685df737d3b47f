"""CroP: keep the weights whose removal would change the gradient flow most."""

from __future__ import annotations

from sparsense.criteria.criterion import Saliency, Weights, criterion, moment
from sparsense.sensitivity import SensitivityRecord


@criterion(
    "crop",
    needs=("hessian_gradient",),
    advice="Networks at initialisation or early in training; iterate for high sparsities.",
)
def crop(weights: Weights, record: SensitivityRecord, /) -> Saliency:
    """|w_j (H (m g))_j|: half the first-order change of |m g|^2 when weight j becomes zero.

    m is 0 at the weights that are zero already, which count as pruned, and 1 elsewhere.

    Args:
        weights: Parameter name -> weight.
        record: With the moment `hessian_gradient`, made without temperature on labelled training samples.

    Returns:
        Parameter name -> saliency `>= 0`.

    Reference:
        Rachwan et al., "Winning the lottery ahead of time: efficient early network pruning", ICML 2022,
        arXiv:2206.10451.
    """
    return {
        name: (weight.detach().double() * moment(record, "hessian_gradient", name, weight)).abs()
        for name, weight in weights.items()
    }
