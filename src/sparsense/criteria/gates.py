"""Gates: how the loss reacts to a multiplier on an output channel."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from sparsense.criteria.criterion import Layouts, Saliency, Weights, criterion, gate, shared
from sparsense.criteria.layout import Layout
from sparsense.errors import InputError
from sparsense.sensitivity import SensitivityRecord


@criterion(
    "gate_taylor",
    gates=("mean", "square", "absolute"),
    filters=True,
    advice="Channels of trained networks; counts what the weights of a channel do together.",
)
def gate_taylor(
    weights: Weights,
    record: SensitivityRecord,
    /,
    *,
    moment: Literal["mean", "square", "absolute"] = "square",
    layouts: Layouts | None = None,
) -> Saliency:
    """Per channel |E s|, E[s^2] or E|s|, with s = sum over positions of y * dL/dy for one sample.

    "mean" is the first-order change of the mean loss when the channel is removed, "square" the Fisher form,
    "absolute" the mean change of single samples' losses regardless of sign.

    Args:
        weights: Parameter name -> weight.
        record: With the gate moments of `record_sensitivities`.
        moment: Which of the three.
        layouts: How channels lie in weights; output channels first by default.

    Returns:
        Parameter name -> saliency `>= 0`; the weights of a channel are equal and sum to the channel's.

    Reference:
        Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019, arXiv:1906.10771;
        Verdenius et al., "Pruning via iterative ranking of sensitivity statistics", 2020, arXiv:2006.00896.
    """
    if moment not in ("mean", "square", "absolute"):
        raise InputError(f"criterion 'gate_taylor': moment must be 'mean', 'square' or 'absolute'; got {moment!r}")
    return gate_saliency(weights, record, moment, layouts)


@criterion(
    "gate_crop",
    gates=("hessian_gradient",),
    filters=True,
    advice="Channels of networks at initialisation or early in training.",
)
def gate_crop(weights: Weights, record: SensitivityRecord, /, *, layouts: Layouts | None = None) -> Saliency:
    """Per channel |d <g, grad_w L> / dc| for a multiplier c = 1 on the channel's output: structured CroP.

    Args:
        weights: Parameter name -> weight.
        record: With the gate moment `hessian_gradient`.
        layouts: How channels lie in weights; output channels first by default.

    Returns:
        Parameter name -> saliency `>= 0`; the weights of a channel are equal and sum to the channel's.

    Reference:
        Rachwan et al., "Winning the lottery ahead of time: efficient early network pruning", ICML 2022,
        arXiv:2206.10451.
    """
    return gate_saliency(weights, record, "hessian_gradient", layouts)


def gate_saliency(weights: Weights, record: SensitivityRecord, key: str, layouts: Layouts | None) -> Saliency:
    """The absolute value of a gate moment, shared among the weights of each channel."""
    return {
        name: _shared(record, key, name, weight.detach(), (layouts or {}).get(name, Layout()))
        for name, weight in weights.items()
    }


def _shared(record: SensitivityRecord, key: str, name: str, weight: Tensor, layout: Layout) -> Tensor:
    channels = len(layout.filters(weight))
    return shared(gate(record, key, name, channels).abs().to(weight.device), weight, layout)
