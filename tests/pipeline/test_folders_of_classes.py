"""Image folders whose subfolders differ: samples of one class have one label, whatever folder they come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsense.errors import InputError
from sparsense.pipeline.data import load_data
from sparsense.recipe.load import read_recipe
from sparsense.recipe.names import check_names
from sparsense.training.reference import train_reference

PART = "{source: image_folder, options: {path: %s, size: 16, channels: 1}}"
RECIPE = """
name: folders
network: {{source: digits_resnet, weights: null}}
data:
  train: {train}
  calibration: {calibration}
  test: {test}
train: {{epochs: 12, batch_size: 6, learning_rate: 0.05}}
heads: [{{name: msp}}]
"""
LEVELS = {"a": 20, "b": 120, "c": 220, "good": 20, "broken": 220}


def folder_of(path: Path, names: str, seed: int) -> Path:
    random = np.random.default_rng(seed)
    for name in names.split():
        (path / name).mkdir(parents=True)
        for index in range(8):
            pixels = LEVELS[name] + random.integers(-20, 20, (16, 16))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path / name / f"{index}.png")
    return path


def recipe(base: Path, train: str, test: str, **changes):
    named = {"train": train, "calibration": train, "test": test}
    parts = {split: PART % folder_of(base / split, names, seed)
             for seed, (split, names) in enumerate(named.items())}  # fmt: skip
    return check_names(read_recipe(RECIPE.format(**parts), changes))


def test_a_class_that_is_absent_from_the_test_folder_moves_no_label(tmp_path):
    made = recipe(tmp_path, "a b c", "a c")
    data = load_data(made, None)
    assert np.unique(data.test.labels).tolist() == [0, 2]
    assert data.test.class_names == data.train.class_names == ("a", "b", "c")
    card = json.loads(train_reference(made, tmp_path / "out").with_suffix(".json").read_text())
    assert card["accuracy"]["train"] > 0.9
    assert card["accuracy"]["test"] > 0.9


def test_normal_samples_are_chosen_by_name_where_test_has_defects_as_well(tmp_path):
    by_name = {"data.test.options.classes": ["good"]}
    data = load_data(recipe(tmp_path / "named", "good", "broken good", **by_name), None)
    assert data.test.labels.tolist() == [0] * 8
    assert data.test.inputs.max() < 60
    for number, changes in enumerate(({}, {"data.test.options.classes": [0]})):
        with pytest.raises(InputError, match="has the classes broken, which 'train/all' does not have"):
            load_data(recipe(tmp_path / str(number), "good", "broken good", **changes), None)
