"""Sensitivity records of a recipe: made once, kept in a file, and used again where they fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sparsense.criteria import CRITERIA, Criterion, Saliency
from sparsense.data import Dataset
from sparsense.data.dataset import shuffled
from sparsense.detector import Progress
from sparsense.errors import InputError
from sparsense.networks.network import Network
from sparsense.pipeline.shared import record_file, shared_record
from sparsense.pipeline.state import State
from sparsense.recipe.schema import Recipe
from sparsense.recording.batches import Samples
from sparsense.recording.layers import layouts, network_sha256, prunable_weights
from sparsense.recording.passes import Source, record_for
from sparsense.sensitivity import SensitivityRecord, pooled, record_sensitivities

LEAST_HELD_OUT = 20
PARTS = 10
"""A pass over samples is kept after each of so many parts."""


def recorded_samples(recipe: Recipe, data: Dataset) -> Dataset:
    """The training samples that sensitivities are recorded on."""
    return data.subset(recipe.sensitivity.samples, seed=recipe.seed)


def held_out_samples(recipe: Recipe, data: Dataset) -> Dataset:
    """As many other training samples, for judging what was chosen with the recorded ones.

    Raises:
        InputError: The recorded ones leave too few.
    """
    order: NDArray[np.int64] = shuffled(len(data), recipe.seed)
    rest = order[recipe.sensitivity.samples : 2 * recipe.sensitivity.samples]
    if len(rest) < LEAST_HELD_OUT:
        raise InputError(
            f"a sensitivity analysis judges training samples that were not recorded: sensitivity.samples "
            f"({recipe.sensitivity.samples}) leaves {len(rest)} of {len(data)}, and {LEAST_HELD_OUT} are needed; ask "
            "for fewer"
        )
    return data.subset(np.sort(rest))


def record_of(
    network: Network, recipe: Recipe, data: Dataset, progress: Progress, what: str, *, state: State | None = None
) -> SensitivityRecord:
    """One pass over the recorded samples, in parts; with a state, parts that are finished are not repeated."""
    sample, section = recorded_samples(recipe, data), recipe.sensitivity
    inputs, batch = network.seen(sample.inputs), section.batch_size
    part = batch * math.ceil(len(inputs) / batch / PARTS)
    file = None if state is None else state.begin() / f"{what}.safetensors"
    record = SensitivityRecord.load(file) if file is not None and file.is_file() else None
    for start in range(0 if record is None else record.info.samples, len(inputs), part):
        labels = None if sample.labels is None else sample.labels[start : start + part]
        found = record_sensitivities(
            network.module, inputs[start : start + part], labels, loss=section.loss, batch_size=batch
        )
        record = found if record is None else pooled(record, found)
        if file is not None:
            record.save(file)
        progress(what, record.info.samples, len(inputs))
    assert record is not None
    info = replace(record.info, data_sha256=Samples(inputs, sample.labels).sha256())
    return SensitivityRecord(record.moments, record.gates, info)


def kept_record(
    network: Network, recipe: Recipe, data: Dataset, progress: Progress, state: State | None = None
) -> SensitivityRecord:
    """The record of the dense network: read from `sensitivity.record` when it is there, else made (and kept there).

    Raises:
        InputError: What is there is of another network, other samples or another loss.
    """
    file = record_file(network, recipe, data)
    if file is not None and Path(file).is_file():
        record = SensitivityRecord.load(file)
        check_record(record, network, recipe, data, file)
        progress("reading sensitivities", len(data), len(data))
        return record
    record = record_of(network, recipe, data, progress, "recording sensitivities", state=state)
    if file is not None:
        record.save(file)
    return record


def pruned_record(network: Network, recipe: Recipe, data: Dataset, progress: Progress) -> SensitivityRecord:
    """The record of the pruned network; in a sweep it is made once for all runs that pruned alike."""
    file = shared_record(network, recipe, data)
    if file is not None and file.is_file():
        return SensitivityRecord.load(file)
    record = record_of(network, recipe, data, progress, "recording again, pruned")
    if file is not None:
        record.save(file)
    return record


def check_record(record: SensitivityRecord, network: Network, recipe: Recipe, data: Dataset, file: str) -> None:
    """Refuse a record that was not made of this network, these samples and this loss."""
    sample = recorded_samples(recipe, data)
    labels = None if sample.labels is None else torch.from_numpy(sample.labels)
    facts = {
        "network": (record.info.network_sha256, network_sha256(network.module)),
        "samples": (record.info.data_sha256, Samples(network.seen(sample.inputs), labels).sha256()),
        "loss": (record.info.loss, recipe.sensitivity.loss),
    }
    for what, (found, expected) in facts.items():
        if found != expected:
            raise InputError(
                f"using the sensitivities of {file}: they were recorded with another {what} ({found[:16]} instead of "
                f"{expected[:16]}); remove the file to record anew, or name another with sensitivity.record"
            )


@dataclass
class Scorer:
    """Saliencies of a network as it changes; of the dense one from the record that is there.

    Args:
        recipe: Sections `prune` and `sensitivity`.
        data: Training samples.
        record: Of the dense network.
    """

    recipe: Recipe
    data: Dataset
    record: SensitivityRecord

    def saliency(self, network: Network) -> Saliency:
        """The saliency of all prunable weights by the recipe's criterion; passes that are missing are run."""
        assert self.recipe.prune is not None
        criterion = CRITERIA[self.recipe.prune.criterion]
        options = dict(self.recipe.prune.options)
        if criterion.filters:
            options = {"layouts": layouts(network.module), **options}
        return criterion(prunable_weights(network.module), self._record(network, criterion), **options)

    def _record(self, network: Network, criterion: Criterion) -> SensitivityRecord:
        dense = self.record.info.network_sha256 == network_sha256(network.module)
        if dense and holds(self.record, criterion):
            return self.record
        sample, section = recorded_samples(self.recipe, self.data), self.recipe.sensitivity
        source = Source(network.seen(sample.inputs), sample.labels, loss=section.loss, batch_size=section.batch_size)
        found = record_for(network.module, criterion, source) or self.record
        if dense:
            self.record = self.record | found
            if section.record is not None:
                self.record.save(section.record)
        return found


def holds(record: SensitivityRecord, criterion: Criterion) -> bool:
    """Whether a record has all moments that a criterion needs."""
    held = {moment for table in record.moments.values() for moment in table}
    held_gates = {moment for table in record.gates.values() for moment in table}
    return held.issuperset(criterion.needs) and held_gates.issuperset(criterion.gates)
