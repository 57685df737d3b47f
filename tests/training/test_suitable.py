"""Objectives and labels that do not suit a network are refused before the first step."""

import numpy as np
import pytest

from sparsense.data import Dataset
from sparsense.errors import InputError, TrainingError
from sparsense.networks import load_network
from sparsense.recipe.training import TrainingSection
from sparsense.training.objectives import OBJECTIVES
from sparsense.training.run import make_training
from tiny_classifier import tiny_data, tiny_network

RECONSTRUCTIONS = {"reconstruction", "gradcon", "latent_norm", "loss_amplification"}


def section(name=None, **options):
    return TrainingSection(epochs=1, objective=None if name is None else {"name": name, "options": options})


def autoencoder():
    return load_network("latent_norm_table", options={"features": 5, "hidden": [4], "latent": 2})


def rows(labels=None):
    inputs = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    return Dataset("mine", inputs, labels)


def test_every_objective_says_which_task_it_is_for():
    tasks = {name: getattr(OBJECTIVES[name], "task", None) for name in OBJECTIVES}
    assert tasks == {name: "reconstruction" if name in RECONSTRUCTIONS else "classifier" for name in OBJECTIVES}


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_an_objective_for_the_other_task_is_refused(name):
    network, data = (
        (tiny_network(), tiny_data("mine", 12, seed=0)) if name in RECONSTRUCTIONS else (autoencoder(), rows())
    )
    with pytest.raises(TrainingError, match=f"training objective '{name}' is for a .* network, and .* is a "):
        make_training(network, network.module, data, section(name), seed=0)


@pytest.mark.parametrize(("labels", "found"), [([0, 1, 9], "0 to 9"), ([-1, 0, 1], "-1 to 1")])
def test_labels_without_an_output_are_refused(labels, found):
    network, data = tiny_network(), tiny_data("mine", 12, seed=0)
    wrong = Dataset("mine", data.inputs[:3], np.array(labels))
    with pytest.raises(TrainingError, match=f"training on 'mine': .*labels from 0 to .* are expected; found {found}"):
        make_training(network, network.module, wrong, section(), seed=0)


def test_a_classifier_without_labels_is_refused_and_an_autoencoder_needs_none():
    network = tiny_network()
    with pytest.raises(InputError, match="training on 'mine': it has no labels"):
        make_training(network, network.module, Dataset("mine", tiny_data("mine", 12, seed=0).inputs), section(), seed=0)
    training = make_training(autoencoder(), autoencoder().module, rows(np.full(12, 99)), section(), seed=0)
    assert np.isfinite(training.epoch())
