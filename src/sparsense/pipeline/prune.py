"""Make a network smaller: saliency, removal or masks, batch norms measured again, a short fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sparsense.benchmark.card import Pruning
from sparsense.criteria import CRITERIA, Saliency
from sparsense.data import Dataset
from sparsense.detector import Progress, silent
from sparsense.networks.network import Network, example_input
from sparsense.pruning.batchnorm import reestimate_batch_norm
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.mask import Mask
from sparsense.pruning.plan import ChannelOptions
from sparsense.pruning.report import PruneReport
from sparsense.pruning.weights import select_weights
from sparsense.recipe.schema import PruneSection, Recipe
from sparsense.recording.layers import layouts, prunable_weights
from sparsense.recording.passes import Source, record_for
from sparsense.sensitivity import SensitivityRecord
from sparsense.training.reference import train_section

Stage = Callable[[str, Network], None]
"""Called with a network after every step, so that each step's effect can be measured."""


@dataclass(frozen=True)
class Pruned:
    """The smaller network and what was done to get it."""

    network: Network
    row: Pruning


def make_smaller(
    network: Network,
    record: SensitivityRecord,
    recipe: Recipe,
    data: Dataset,
    *,
    stage: Stage,
    progress: Progress = silent,
) -> Pruned:
    """Prune, measure the batch norms again and fine-tune, as the recipe says; the given network stays as it is.

    Args:
        network: Dense.
        record: Sensitivities of this network.
        recipe: Sections `prune` (not null), `batch_norm`, `finetune`.
        data: Training samples.
        stage: Called after each step.
        progress: Called after every batch of the fine-tuning.
    """
    section = recipe.prune
    if section is None:
        raise ValueError("the recipe has no section prune")
    saliency = _saliency(network, record, section, recipe, data)
    mask = None
    if section.structure == "channel":
        smaller, row = _remove_channels(network, saliency, section)
    else:
        smaller, row, mask = _mask_weights(network, saliency, section)
    stage("pruned", smaller)
    if recipe.batch_norm is not None and _has_batch_norm(smaller):
        reestimate_batch_norm(
            smaller.module, _batches(smaller, data.subset(recipe.batch_norm.samples, seed=recipe.seed))
        )
        stage("batch norm re-estimated", smaller)
    if recipe.finetune is not None:
        keep = (lambda: None) if mask is None else (lambda: mask.apply_(smaller.module))
        train_section(smaller, data, recipe.finetune, seed=recipe.seed, after_step=keep, report=progress)
        stage("fine-tuned", smaller)
    return Pruned(smaller, row)


def _saliency(
    network: Network, record: SensitivityRecord, section: PruneSection, recipe: Recipe, data: Dataset
) -> Saliency:
    """From the record that is there; passes that it does not hold are run now."""
    criterion, options = CRITERIA[section.criterion], dict(section.options)
    if criterion.filters:
        options = {"layouts": layouts(network.module), **options}
    if not _holds(record, criterion.needs, criterion.gates):
        sample = data.subset(recipe.sensitivity.samples, seed=recipe.seed)
        inputs = torch.from_numpy(network.preprocessing.apply(sample.inputs))
        source = Source(inputs, sample.labels, loss=recipe.sensitivity.loss, batch_size=recipe.sensitivity.batch_size)
        record = record_for(network.module, criterion, source) or record
    return criterion(prunable_weights(network.module), record, **options)


def _holds(record: SensitivityRecord, needs: tuple[str, ...], gates: tuple[str, ...]) -> bool:
    held = {moment for table in record.moments.values() for moment in table}
    held_gates = {moment for table in record.gates.values() for moment in table}
    return held.issuperset(needs) and held_gates.issuperset(gates)


def _remove_channels(network: Network, saliency: Saliency, section: PruneSection) -> tuple[Network, Pruning]:
    count: Literal["both", "producers"] = "producers" if CRITERIA[section.criterion].filters else "both"
    report = prune_channels(
        network.module,
        example_input(network.input_shape),
        saliency,
        sparsity=section.sparsity,
        scope="layer" if section.scope == "layer" else "global",
        options=ChannelOptions(count=count, round_to=section.round_to or 1, ignore=section.ignore),
    )
    return replace(network, module=report.module), _row(section, report)


def _row(section: PruneSection, report: PruneReport) -> Pruning:
    before, after = report.before, report.after
    reached = {
        "channels": report.reached,
        "parameters": 1 - after.parameters / before.parameters,
        "multiply_adds": 1 - after.multiply_adds / before.multiply_adds,
    }
    rounding = "" if section.round_to is None else f", widths rounded to multiples of {section.round_to}"
    return Pruning(
        criterion=section.criterion,
        structure="channel",
        scope=section.scope,
        target=f"{section.sparsity:.0%} of the channels{rounding}",
        reached=reached,
        proof=f"the forward pass works, and removing equals masking to {report.proof:.0e} on random inputs",
    )


def _mask_weights(network: Network, saliency: Saliency, section: PruneSection) -> tuple[Network, Pruning, Mask]:
    module = deepcopy(network.module)
    mask = select_weights(module, saliency, sparsity=section.sparsity, scope=section.scope, ignore=section.ignore)
    mask.apply_(module)
    row = Pruning(
        criterion=section.criterion,
        structure="weight",
        scope=section.scope,
        target=f"{section.sparsity:.0%} of the weights",
        reached={"sparsity": mask.sparsity},
        proof=f"{mask.size - mask.kept:,} of {mask.size:,} prunable weights are 0; zeros alone do not make it faster",
    )
    return replace(network, module=module), row, mask


def _has_batch_norm(network: Network) -> bool:
    return any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in network.module.modules())


def _batches(network: Network, data: Dataset, *, batch_size: int = 128) -> list[Tensor]:
    inputs = torch.from_numpy(network.preprocessing.apply(data.inputs))
    return [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]
