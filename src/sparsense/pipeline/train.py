"""Train the network of a recipe: by itself, or as the first step of a run."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from sparsense.detector import Progress, silent
from sparsense.errors import RecipeError
from sparsense.networks.network import Network
from sparsense.networks.tensors import without_remembered
from sparsense.pipeline.data import RunData, load_data
from sparsense.pipeline.state import State
from sparsense.recipe.schema import Recipe
from sparsense.training.fit import remembered, save_weights
from sparsense.training.reference import train_reference
from sparsense.training.run import make_train_run, run_training

WEIGHTS = "trained.safetensors"


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


def train_first(network: Network, recipe: Recipe, data: RunData, state: State, *, output: Path,
                progress: Progress) -> None:  # fmt: skip
    """Train the network of a run in place, as its section `train` says; nothing happens when there is none.

    What is finished is kept in the state. The log of the epochs, and the last good weights of a training that
    diverged, lie beside the output.
    """
    if recipe.train is None:
        return
    if recipe.train.devices > 1:
        raise RecipeError(
            "a run trains in one process; train with `sparsense train` first, and name the weights in network.weights",
            key="train.devices",
        )

    def write(folder: Path) -> None:
        checkpoint = state.begin() / "training.safetensors"
        training = make_train_run(network, recipe, data.samples())
        run_training(training, recipe, checkpoint, beside=output, report=progress)
        save_weights(network.module, folder / WEIGHTS, remembered(training))

    weights, network.remembered = without_remembered(load_file(state.piece("trained", write) / WEIGHTS))
    network.module.load_state_dict(weights)
