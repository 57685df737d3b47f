"""Training from a recipe, and the weights that come with sparsense."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from sparsense.data import SOURCES
from sparsense.errors import InputError, RecipeError
from sparsense.networks import load_network
from sparsense.networks.load import bundled_weights
from sparsense.recipe import load_recipe
from sparsense.recipe.load import read_recipe
from sparsense.recipe.text import read_yaml
from sparsense.training import accuracy, reference
from sparsense.training.reference import train_reference
from sparsense.training.run import Samples, training_identity
from tiny_classifier import tiny_data, tiny_network

RECIPE = Path(__file__).parents[2] / "recipes" / "digits-resnet.yaml"
QUICK = {"train.epochs": 1, "data.train.limit": 96, "network.options": {"widths": [8, 8]}}


def quick(folder, **overrides):
    return train_reference(load_recipe(RECIPE, QUICK | overrides), folder)


def card_of(weights):
    return json.loads(weights.with_suffix(".json").read_text())


def test_weights_and_card_are_written_and_belong_together(tmp_path):
    weights = quick(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "digits_resnet.csv",
        "digits_resnet.json",
        "digits_resnet.safetensors",
    ]
    card = card_of(weights)
    assert card["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert card["data"]["train"] == {
        "name": "digits/train",
        "count": 96,
        "sha256": SOURCES["digits"]("train", limit=96).sha256(),
    }
    assert read_yaml(card["recipe"]["text"])["train"]["epochs"] == 1
    assert hashlib.sha256(card["recipe"]["text"].encode()).hexdigest() == card["recipe"]["sha256"]
    assert len(card["losses"]) == 1
    network = load_network("digits_resnet", weights=weights, options={"widths": [8, 8]})
    assert accuracy(network, SOURCES["digits"]("test")) == pytest.approx(card["accuracy"]["test"], abs=1e-6)


def test_the_same_recipe_gives_the_same_weights_and_another_seed_others(tmp_path):
    hashes = [card_of(quick(tmp_path / str(i), seed=seed))["weights_sha256"] for i, seed in enumerate((0, 0, 1))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_progress_is_reported(tmp_path):
    told = []
    train_reference(load_recipe(RECIPE, QUICK), tmp_path, report=lambda *event: told.append(event))
    assert told == [("training", 1, 2), ("training", 2, 2)]


def test_a_recipe_without_the_section_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="train: there is nothing to train"):
        train_reference(load_recipe(RECIPE, QUICK | {"train": None}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_bundled_weights_are_those_of_their_card_and_recipe():
    weights = bundled_weights("digits_resnet")
    card = card_of(weights)
    assert card["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert weights.stat().st_size < 1_000_000
    written, recipe = read_recipe(card["recipe"]["text"]), load_recipe(RECIPE)
    assert all(getattr(written, part) == getattr(recipe, part) for part in ("name", "seed", "network", "data", "train"))
    for split, row in card["data"].items():
        assert SOURCES["digits"](split).sha256() == row["sha256"]


def test_the_bundled_network_is_as_good_as_its_card_says():
    network = load_network("digits_resnet", weights="bundled")
    found = {split: accuracy(network, SOURCES["digits"](split)) for split in ("train", "calibration", "test")}
    card = card_of(bundled_weights("digits_resnet"))
    assert found == pytest.approx(card["accuracy"], abs=0.003)  # one sample of the calibration set may flip elsewhere
    assert found["test"] >= 0.98
    assert sum(p.numel() for p in network.module.parameters()) == card["parameters"]


class Killed(BaseException):
    """Not an error that anything catches."""


def test_a_set_without_labels_has_no_accuracy_and_costs_no_weights(tmp_path):
    found = SOURCES["digits"]("calibration")
    np.savez(tmp_path / "plain.npz", images=found.inputs)
    plain = {"source": "npz", "options": {"path": str(tmp_path / "plain.npz")}}
    weights = quick(tmp_path / "out", **{"data.calibration": plain})
    card = card_of(weights)
    assert card["accuracy"]["calibration"] is None
    network = load_network("digits_resnet", weights=weights, options={"widths": [8, 8]})
    assert card["accuracy"]["test"] == pytest.approx(accuracy(network, SOURCES["digits"]("test")), abs=1e-6)
    assert not (tmp_path / "out" / "digits_resnet.training.safetensors").exists()


def test_a_kill_after_the_last_epoch_costs_nothing(tmp_path, monkeypatch):
    def kill(*_args):
        raise Killed

    whole, told = quick(tmp_path / "whole").read_bytes(), []
    for name in ("_card", "_write"):  # after and before the weights are put in their place
        monkeypatch.setattr(reference, name, kill)
        with pytest.raises(Killed):
            quick(tmp_path / "part")
    monkeypatch.undo()
    weights = train_reference(load_recipe(RECIPE, QUICK), tmp_path / "part", report=lambda *event: told.append(event))
    assert not told
    assert weights.read_bytes() == whole
    assert card_of(weights)["weights_sha256"] == hashlib.sha256(whole).hexdigest()


def test_weights_to_start_from_may_lie_below_the_data_root(tmp_path):
    first = quick(tmp_path / "root" / "weights")
    changes = {"network.weights": "weights/digits_resnet.safetensors", "train.learning_rate": 1e-9}
    recipe = load_recipe(RECIPE, QUICK | changes)
    again = train_reference(recipe, tmp_path / "again", data_root=str(tmp_path / "root"))
    one, other = (safetensors.torch.load_file(path) for path in (first, again))
    torch.testing.assert_close(one["fc.weight"], other["fc.weight"], rtol=0, atol=1e-6)
    with pytest.raises(InputError, match=r"found it neither here nor in the data root .*docs/data\.md"):
        train_reference(recipe, tmp_path / "again", data_root=str(tmp_path))


def test_the_identity_of_a_run_knows_all_samples_that_it_learns_or_chooses_from():
    recipe, network = load_recipe(RECIPE, QUICK), tiny_network()
    train, other, third = (tiny_data("x", 30, seed=seed) for seed in range(3))
    base = Samples(train, other, third)
    found = [
        training_identity(network, recipe, base),
        training_identity(network, recipe, replace(base, train=third)),
        training_identity(network, recipe, replace(base, train=replace(train, labels=other.labels))),
        training_identity(network, recipe, replace(base, train=replace(train, spans=np.zeros((30, 2), np.int64)))),
        training_identity(network, recipe, replace(base, outliers=train)),
        training_identity(network, recipe, replace(base, outliers=None)),
        training_identity(network, recipe, replace(base, validation_anomalies=train)),
        training_identity(network, load_recipe(RECIPE, QUICK | {"train.learning_rate": 0.2}), base),
        training_identity(tiny_network(bias=False), recipe, base),
    ]
    assert len(set(found)) == len(found)
    measured = load_recipe(RECIPE, QUICK | {"data.test.limit": 7, "data.calibration.limit": 9, "heads": ["energy"]})
    assert training_identity(network, measured, base) == found[0]


@pytest.mark.slow
def test_training_it_again_gives_a_network_as_good(tmp_path):
    weights = train_reference(load_recipe(RECIPE), tmp_path)
    assert card_of(weights)["accuracy"]["test"] >= 0.975
    again, bundled = (safetensors.torch.load_file(path) for path in (weights, bundled_weights("digits_resnet")))
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in bundled.items()}
    assert all(torch.isfinite(tensor).all() for tensor in again.values())
