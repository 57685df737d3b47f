"""Which pass gives which moment, and the record a criterion needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import or_

import torch
from torch import nn

from sparsense.criteria.criterion import CRITERIA, Criterion, Saliency
from sparsense.errors import InputError
from sparsense.recording.batches import Arrays
from sparsense.recording.flow import record_flow, record_norm_scales
from sparsense.recording.hessian import record_hessian_diagonal, record_hessian_gradient
from sparsense.recording.layers import layouts, prunable_weights
from sparsense.recording.losses import Loss
from sparsense.recording.moments import record_moments
from sparsense.sensitivity import SensitivityRecord


@dataclass(frozen=True)
class Source:
    """What passes may need: data, how to differentiate it, and how to run the network.

    Args:
        inputs: `[N, ...]` as the network sees them; passes without data use only the shape.
        labels: `[N]`, or None for the network's own predictions.
        loss: A name in `LOSSES`, or a function.
        batch_size: Samples per batch.
        temperature: Divides the outputs in second-order passes.
        probes: None for the exact diagonal of the Hessian, else the number of random vectors.
    """

    inputs: Arrays
    labels: Arrays | None = None
    loss: str | Loss = "cross_entropy"
    batch_size: int = 64
    temperature: float = 1.0
    probes: int | None = None


def _moments(module: nn.Module, source: Source) -> SensitivityRecord:
    return record_moments(module, source.inputs, source.labels, loss=source.loss, batch_size=source.batch_size)


def _hessian_gradient(module: nn.Module, source: Source) -> SensitivityRecord:
    return record_hessian_gradient(
        module, source.inputs, source.labels,
        loss=source.loss, batch_size=source.batch_size, temperature=source.temperature,
    )  # fmt: skip


def _hessian_diagonal(module: nn.Module, source: Source) -> SensitivityRecord:
    return record_hessian_diagonal(module, source.inputs, source.labels, loss=source.loss, probes=source.probes)


def _flow(module: nn.Module, source: Source) -> SensitivityRecord:
    return record_flow(module, tuple(source.inputs.shape[1:]))


def _norm_scales(module: nn.Module, source: Source) -> SensitivityRecord:
    return record_norm_scales(module, torch.as_tensor(source.inputs[:1]))


Pass = Callable[[nn.Module, Source], SensitivityRecord]
PASSES: dict[str, Pass] = {
    **dict.fromkeys(("gradient", "gradient_square", "elasticity", "elasticity_square", "input_square"), _moments),
    **dict.fromkeys(("mean", "square", "absolute"), _moments),
    "hessian_gradient": _hessian_gradient,
    "hessian_diagonal": _hessian_diagonal,
    "flow": _flow,
    "norm_scale": _norm_scales,
}
"""Moment (of weights or gates) -> the pass that gives it."""


def record_for(module: nn.Module, criterion: Criterion, source: Source | None) -> SensitivityRecord | None:
    """Run the passes whose moments a criterion needs; None when it needs none.

    Raises:
        InputError: It needs a pass and there is no source.
    """
    needed = (*criterion.needs, *criterion.gates)
    if not needed:
        return None
    if source is None:
        raise InputError(f"criterion {criterion.name!r} needs {', '.join(needed)}, which come from passes over data; "
                         "give inputs (and labels)")  # fmt: skip
    passes = dict.fromkeys(PASSES[moment] for moment in needed)
    return reduce(or_, [run(module, source) for run in passes])


def saliency_of(module: nn.Module, criterion: str, source: Source | None = None, **options: object) -> Saliency:
    """The saliency of every prunable weight of a network by a criterion's name.

    Args:
        module: Any network.
        criterion: A name in `CRITERIA`.
        source: Data for the passes that the criterion needs.
        options: Passed to the criterion.

    Returns:
        Parameter name -> saliency shaped like the weight, `>= 0`, higher = keep.
    """
    entry = CRITERIA[criterion]
    if entry.filters:
        options = {"layouts": layouts(module), **options}
    return entry(prunable_weights(module), record_for(module, entry, source), **options)
