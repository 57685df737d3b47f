"""Taylor: the change of the loss when a weight becomes zero, to first or second order."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sparsense.criteria.criterion import Saliency, Weights, criterion, moment
from sparsense.errors import InputError
from sparsense.sensitivity import SensitivityRecord


@criterion(
    "taylor",
    needs=("gradient", "gradient_square"),
    advice="Trained networks, channels; needs some hundred samples.",
)
def taylor(weights: Weights, record: SensitivityRecord, /, *, order: Literal[1, 2] = 1) -> Saliency:
    """Order 1: |w g|, with g the mean gradient; order 2: w^2 E[g_i^2] / 2, the Fisher diagonal for the Hessian.

    At a minimum the mean gradient vanishes and only the second order is left.

    Args:
        weights: Parameter name -> weight.
        record: With the moments `gradient` and `gradient_square`.
        order: Of the expansion.

    Returns:
        Parameter name -> saliency `>= 0` in units of the loss.

    Reference:
        Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019, arXiv:1906.10771;
        Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, arXiv:1801.05787.
    """
    if order not in (1, 2):
        raise InputError(f"criterion 'taylor': order must be 1 or 2; got {order!r}")
    expand = first_order if order == 1 else fisher_order
    return {name: expand(record, name, weight.detach()) for name, weight in weights.items()}


def first_order(record: SensitivityRecord, name: str, weight: Tensor) -> Tensor:
    """|w g|."""
    return (weight.double() * moment(record, "gradient", name, weight)).abs()


def fisher_order(record: SensitivityRecord, name: str, weight: Tensor) -> Tensor:
    """w^2 E[g_i^2] / 2."""
    return weight.double().square() * moment(record, "gradient_square", name, weight) / 2
