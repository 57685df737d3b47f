"""Optimal brain damage: the curvature of the loss along each weight."""

from __future__ import annotations

from sparsense.criteria.criterion import Saliency, Weights, criterion, moment
from sparsense.sensitivity import SensitivityRecord


@criterion(
    "obd",
    needs=("hessian_diagonal",),
    advice="Small trained networks (exact diagonal), or with probes; taylor of order 2 is the cheap relative.",
)
def obd(weights: Weights, record: SensitivityRecord, /) -> Saliency:
    """|w_j^2 H_jj| / 2, with H the Hessian of the mean loss.

    At a minimum H_jj >= 0 and this is the change of the loss; elsewhere the absolute value is taken.

    Args:
        weights: Parameter name -> weight.
        record: With the moment `hessian_diagonal`.

    Returns:
        Parameter name -> saliency `>= 0` in units of the loss.

    Reference:
        LeCun et al., "Optimal brain damage", NeurIPS 1989.
    """
    return {
        name: (weight.detach().double().square() * moment(record, "hessian_diagonal", name, weight)).abs() / 2
        for name, weight in weights.items()
    }
