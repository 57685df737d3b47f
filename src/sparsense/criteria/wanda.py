"""Wanda: weights times the size of what they multiply."""

from __future__ import annotations

from sparsense.criteria.criterion import Saliency, Weights, criterion, moment
from sparsense.sensitivity import SensitivityRecord


@criterion(
    "wanda",
    needs=("input_square",),
    advice="Large trained networks that are not fine-tuned; meant for the scope `row`.",
)
def wanda(weights: Weights, record: SensitivityRecord, /) -> Saliency:
    """|w_j| * sqrt(E |x_j|^2), with x_j the input (over all positions) that weight j multiplies.

    For convolutions x_j is a channel of the input at one offset of the kernel, padding included. The paper
    compares the weights of one output channel with each other: scope `row`.

    Args:
        weights: Parameter name -> weight.
        record: With the moment `input_square`.

    Returns:
        Parameter name -> saliency `>= 0`.

    Reference:
        Sun et al., "A simple and effective pruning approach for large language models", ICLR 2024,
        arXiv:2306.11695.
    """
    return {
        name: weight.detach().double().abs() * moment(record, "input_square", name, weight).sqrt()
        for name, weight in weights.items()
    }
