"""Training from a recipe, and the weights that come with sparsense."""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sparsense.data import SOURCES
from sparsense.errors import RecipeError
from sparsense.networks import load_network
from sparsense.networks.load import bundled_weights
from sparsense.recipe import load_recipe
from sparsense.recipe.load import read_recipe
from sparsense.recipe.text import read_yaml
from sparsense.training import accuracy
from sparsense.training.reference import train_reference

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


@pytest.mark.slow
def test_training_it_again_gives_a_network_as_good(tmp_path):
    weights = train_reference(load_recipe(RECIPE), tmp_path)
    assert card_of(weights)["accuracy"]["test"] >= 0.975
    again, bundled = (safetensors.torch.load_file(path) for path in (weights, bundled_weights("digits_resnet")))
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in bundled.items()}
    assert all(torch.isfinite(tensor).all() for tensor in again.values())
