"""What the runs of a sweep find out alike is found out once, and kept in a folder that they share."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsense.data import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import HeldOut, Scored
from sparsense.detector.cache import KeptBatches
from sparsense.detector.groups import group_inputs
from sparsense.errors import SparsenseError
from sparsense.files import held_alone
from sparsense.networks.network import Network, behaviour
from sparsense.pipeline.pulse import PULSE
from sparsense.pipeline.state import State, job_key
from sparsense.recipe.schema import Recipe
from sparsense.recording.layers import network_sha256

SHARED = "SPARSENSE_SHARED"
"""Environment variable: the folder. Everything in it is named by a hash of what it was made of."""
AFTER_PRUNING: dict[str, Any] = {
    **dict.fromkeys(("name", "heads", "fit", "calibrate", "precision", "robustness"), True),
    "export": {"tolerance"},
}
"""Keys of a recipe that the pruned network does not depend on."""
PATIENCE = 7 * 24 * 3600.0
"""Seconds that a run waits for another one that prunes alike; one that dies leaves its place at once."""


def shared_folder() -> Path | None:
    """The folder that a sweep has given to this process."""
    found = os.environ.get(SHARED)
    return None if found is None else Path(found)


@contextmanager
def pruning_state(recipe: Recipe, facts: tuple[str, ...], own: State) -> Iterator[State]:
    """Where the pieces of a pruning are kept: in a sweep in the shared folder, so that it is done once.

    The second of two such runs waits for the first. A run that reports after every epoch of fine-tuning keeps to its
    own state, as what was learnt elsewhere cannot be reported.

    Args:
        recipe: Of the run.
        facts: Hashes of its samples and of the dense network.
        own: The state of the run.
    """
    folder = shared_folder()
    if folder is None or PULSE in os.environ:
        yield own
        return
    key = job_key(recipe.model_dump_json(exclude=AFTER_PRUNING), *facts)
    place = folder / "pruned" / key[:32]
    place.parent.mkdir(parents=True, exist_ok=True)
    with held_alone(place.with_suffix(".lock"), seconds=PATIENCE):
        try:
            yield State(place, key, own.output)
        except SparsenseError:  # as of a run's own state: what ended so is not gone on with
            shutil.rmtree(place, ignore_errors=True)
            raise


def record_file(network: Network, recipe: Recipe, data: Dataset) -> str | None:
    """Where the sensitivities of the dense network are kept: as the recipe says, else in the shared folder."""
    if recipe.sensitivity.record is not None:
        return recipe.sensitivity.record
    found = shared_record(network, recipe, data)
    return None if found is None else str(found)


def shared_record(network: Network, recipe: Recipe, data: Dataset) -> Path | None:
    """Where the runs of a sweep keep the sensitivities of a network."""
    section, folder = recipe.sensitivity, shared_folder()
    if folder is None:
        return None
    facts = (
        network_sha256(network.module),
        behaviour(network),
        data.sha256(),
        section.loss,
        section.samples,
        section.batch_size,
        recipe.seed,
    )
    name = hashlib.sha256(" ".join(map(str, facts)).encode()).hexdigest()[:32]
    return folder / f"sensitivities-{name}.safetensors"


def observations(recipe: Recipe) -> Path | None:
    """Where heads keep what they observe: as the recipe says, else in the shared folder."""
    folder = shared_folder()
    if recipe.fit.cache is not None:
        return Path(recipe.fit.cache)
    return None if folder is None else folder / "observed"


def judged(scored: Scored, data: Dataset, preprocessing: Preprocessing) -> HeldOut:
    """What a detector says of a data set, or of its groups; read from the shared folder where it is there."""
    folder, inputs = shared_folder(), group_inputs(preprocessing.arrange(data.inputs), scored.network.group)
    if folder is None:
        return scored.judge(inputs)
    kept = KeptBatches.of(folder / "judged", scored.network.model, [scored.score], data=data.sha256(), batch_size=0)
    found = kept.read(0)
    if found is None:
        said = scored.judge(inputs)
        found = [said.scores] if said.classes is None else [said.scores, said.classes]
        kept.write(0, found)
    return HeldOut(*found)
