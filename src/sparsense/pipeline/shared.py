"""What the runs of a sweep find out about the same dense network, kept in a folder that they share."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sparsense.data import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import HeldOut, Scored
from sparsense.detector.cache import KeptBatches
from sparsense.networks.network import Network
from sparsense.recipe.schema import Recipe
from sparsense.recording.layers import network_sha256

SHARED = "SPARSENSE_SHARED"
"""Environment variable: the folder. Everything in it is named by a hash of what it was made of."""


def shared_folder() -> Path | None:
    """The folder that a sweep has given to this process."""
    found = os.environ.get(SHARED)
    return None if found is None else Path(found)


def record_file(network: Network, recipe: Recipe, data: Dataset) -> str | None:
    """Where the sensitivities of the dense network are kept: as the recipe says, else in the shared folder."""
    section, folder = recipe.sensitivity, shared_folder()
    if section.record is not None or folder is None:
        return section.record
    facts = (
        network_sha256(network.module),
        data.sha256(),
        section.loss,
        section.samples,
        section.batch_size,
        recipe.seed,
    )
    name = hashlib.sha256(" ".join(map(str, facts)).encode()).hexdigest()[:32]
    return str(folder / f"sensitivities-{name}.safetensors")


def observations(recipe: Recipe, *, dense: bool) -> Path | None:
    """Where heads keep what they observe: as the recipe says, else, of the dense network, in the shared folder."""
    folder = shared_folder()
    if recipe.fit.cache is not None:
        return Path(recipe.fit.cache)
    return folder / "observed" if folder is not None and dense else None


def judged(scored: Scored, data: Dataset, preprocessing: Preprocessing, *, dense: bool) -> HeldOut:
    """What a detector says of a data set; of the dense network it is read from the shared folder where it is there."""
    folder, inputs = shared_folder(), preprocessing.arrange(data.inputs)
    if folder is None or not dense:
        return scored.judge(inputs)
    kept = KeptBatches.of(folder / "judged", scored.network.model, [scored.score], data=data.sha256(), batch_size=0)
    found = kept.read(0)
    if found is None:
        said = scored.judge(inputs)
        found = [said.scores] if said.classes is None else [said.scores, said.classes]
        kept.write(0, found)
    return HeldOut(*found)
