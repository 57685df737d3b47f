"""Magnitude: small weights do little."""

from __future__ import annotations

from typing import Literal

from sparsense.criteria.criterion import Saliency, Weights, criterion
from sparsense.errors import InputError
from sparsense.sensitivity import SensitivityRecord


@criterion("magnitude", advice="The one to start with on a trained network; empties layers of an untrained one.")
def magnitude(
    weights: Weights, _record: SensitivityRecord | None = None, /, *, norm: Literal["l1", "l2"] = "l1"
) -> Saliency:
    """|w| ("l1") or w^2 ("l2"); summed over a channel: its l1 norm, or its squared l2 norm.

    For single weights both give the same order.

    Args:
        weights: Parameter name -> weight.
        norm: What a channel's sum becomes.

    Returns:
        Parameter name -> saliency `>= 0`, shaped like the weight.

    Reference:
        Han et al., "Learning both weights and connections for efficient neural networks", NeurIPS 2015,
        arXiv:1506.02626; Li et al., "Pruning filters for efficient convnets", ICLR 2017, arXiv:1608.08710.

    Example:
        >>> import torch
        >>> magnitude({"w": torch.tensor([1.0, -2.0])}, norm="l2")["w"].tolist()
        [1.0, 4.0]
    """
    if norm not in ("l1", "l2"):
        raise InputError(f"criterion 'magnitude': norm must be 'l1' or 'l2'; got {norm!r}")
    power = 1 if norm == "l1" else 2
    return {name: weight.detach().double().abs() ** power for name, weight in weights.items()}
