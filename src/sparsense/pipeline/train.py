"""Train the network of a recipe: by itself, or as the first step of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from sparsense.benchmark.card import Trained
from sparsense.detector import Progress, silent
from sparsense.errors import RecipeError
from sparsense.networks.network import Network
from sparsense.networks.tensors import without_remembered
from sparsense.pipeline.data import RunData, load_data
from sparsense.pipeline.state import GOING_ON, State, kept_state, state_folder
from sparsense.recipe.schema import Recipe
from sparsense.training.chosen import how_chosen, why_chosen
from sparsense.training.fit import remembered, save_weights
from sparsense.training.loop import Training
from sparsense.training.reference import train_reference
from sparsense.training.run import make_train_run, run_training, training_identity

WEIGHTS, CARD, CHECKPOINT = "trained.safetensors", "trained.json", "training.safetensors"
STAYS = (
    "the keys seed, network and train of the recipe, the code of the network, and the samples that are learnt and "
    "chosen from"
)


def train_recipe(recipe: Recipe, *, output: Path, data_root: str | None = None, progress: Progress = silent) -> Path:
    """Train, and write the weights with their training card.

    Args:
        recipe: Its section `train` says how.
        output: Folder of the results.
        data_root: Folder of the published data sets.
        progress: Called with `(what, done, of)`.

    Returns:
        The weights' file.

    Raises:
        InputError: Sets of samples overlap that must not.
    """
    load_data(recipe, data_root)
    return train_reference(recipe, output, data_root=data_root, report=progress)


@contextmanager
def trained_first(
    network: Network, recipe: Recipe, data: RunData, *, output: Path, progress: Progress
) -> Iterator[Trained | None]:
    """Train the network of a run in place, as its section `train` says; nothing happens when there is none.

    What is finished is kept in a state of its own, which depends on what training depends on and on nothing else: an
    error of what comes later costs no training, and neither does the change of the recipe that mends it. The log of
    the epochs, and the last good weights of a training that diverged, lie beside the output.

    Yields:
        How it went, for the card.
    """
    if recipe.train is None:
        yield None
        return
    if recipe.train.devices > 1:
        raise RecipeError(
            "a run trains in one process; train with `sparsense train` first, and name the weights in network.weights",
            key="train.devices",
        )

    key = training_identity(network, recipe, data.samples())
    with kept_state(state_folder(output, "training"), key, output=output, stays=STAYS) as state:
        if state.begun:
            progress(GOING_ON, 1, 1)
        piece = state.piece("trained", lambda folder: _train(network, recipe, data, state, folder, progress))
        state.worth_keeping()
        (state.folder / CHECKPOINT).unlink(missing_ok=True)
        weights, network.remembered = without_remembered(load_file(piece / WEIGHTS))
        network.module.load_state_dict(weights)
        yield Trained.model_validate_json((piece / CARD).read_text())


def _train(network: Network, recipe: Recipe, data: RunData, state: State, folder: Path, progress: Progress) -> None:
    assert state.output is not None
    training = make_train_run(network, recipe, data.samples())
    run_training(
        training,
        recipe,
        state.begin() / CHECKPOINT,
        identity=state.key,
        beside=state.output,
        report=progress,
    )
    save_weights(network.module, folder / WEIGHTS, remembered(training))
    (folder / CARD).write_text(trained_row(training).model_dump_json())


def trained_row(training: Training[Any]) -> Trained:
    """How a training went, for the card."""
    chosen, losses = how_chosen(training), [round(loss, 6) for loss in training.losses]
    epochs = f"{len(losses)} epoch{'s' if len(losses) > 1 else ''}"
    went = (
        f"The network was trained for {epochs} (mean loss {losses[0]:.4g} in the first, {losses[-1]:.4g} in the last)"
    )
    kept = "the last one is kept"
    if chosen["select"] != "last":
        kept = f"epoch {chosen['epoch']} is kept, after which {why_chosen(chosen)}"
    return Trained(words=f"{went}; {kept}", losses=losses, **chosen)
