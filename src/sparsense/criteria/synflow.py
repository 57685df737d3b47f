"""SynFlow: the share of a weight in the flow of ones through the network, without data."""

from __future__ import annotations

from sparsense.criteria.criterion import Saliency, Weights, criterion, moment
from sparsense.sensitivity import SensitivityRecord


@criterion(
    "synflow",
    needs=("flow",),
    advice="Networks at initialisation, without data; iterate (100 steps) so that no layer empties.",
)
def synflow(weights: Weights, record: SensitivityRecord, /) -> Saliency:
    """|w_j| dR/d|w_j|, with R = 1^T (product of |W_l|) 1.

    The saliencies of every layer of a chain sum to R. One step is no better than magnitude; the method is to
    prune a little, record again, and so on (`sparsense.pruning.schedule`).

    Args:
        weights: Parameter name -> weight.
        record: With the moment `flow`.

    Returns:
        Parameter name -> saliency `>= 0`, as large as 1e300 on deep networks.

    Reference:
        Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
        NeurIPS 2020, arXiv:2006.05467.
    """
    return {
        name: weight.detach().double().abs() * moment(record, "flow", name, weight) for name, weight in weights.items()
    }
