"""Batch norm scale: a channel that its norm scales to nothing does nothing."""

from __future__ import annotations

from sparsense.criteria.criterion import Layouts, Saliency, Weights, criterion
from sparsense.criteria.gates import gate_saliency
from sparsense.sensitivity import SensitivityRecord


@criterion(
    "batch_norm_scale",
    gates=("norm_scale",),
    filters=True,
    advice="Channels of networks trained with a penalty on their batch norm scales.",
)
def batch_norm_scale(weights: Weights, record: SensitivityRecord, /, *, layouts: Layouts | None = None) -> Saliency:
    """|gamma| of the batch norm that directly follows the layer; 1 where none does.

    Args:
        weights: Parameter name -> weight.
        record: With the gate moment `norm_scale`.
        layouts: How channels lie in weights; output channels first by default.

    Returns:
        Parameter name -> saliency `>= 0`; the weights of a channel are equal and sum to its scale.

    Reference:
        Liu et al., "Learning efficient convolutional networks through network slimming", ICCV 2017,
        arXiv:1708.06519.
    """
    return gate_saliency(weights, record, "norm_scale", layouts)
