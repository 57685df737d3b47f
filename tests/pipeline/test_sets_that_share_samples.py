"""Samples that are in two sets of a run are refused where that would spoil what is promised or measured."""

from __future__ import annotations

import pytest
from test_train_recipe import ZEROS, recipe

from sparsense.errors import InputError
from sparsense.pipeline.data import load_data
from sparsense.recipe.text import read_yaml


@pytest.mark.parametrize(
    ("key", "split", "message"),
    [
        ("anomalies.ones", "train", r"30 samples of data\.ones are also in data\.train"),
        ("anomalies.ones", "calibration", r"30 samples of data\.ones are also in data\.calibration"),
        ("outliers", "train", r"30 samples of data\.outliers are also in data\.train"),
        ("validation_anomalies", "train", r"30 samples of data\.validation_anomalies are also in data\.train"),
    ],
)
def test_normal_samples_that_are_anomalies_too_are_refused(key, split, message):
    with pytest.raises(InputError, match=message):
        load_data(recipe(**{f"data.{key}": read_yaml(ZEROS % split)}), None)


def test_other_classes_of_the_same_split_are_anomalies():
    ones = {"source": "digits", "split": "train", "limit": 20, "options": {"classes": [1], "size": 28}}
    assert len(load_data(recipe(**{"data.anomalies.ones": ones}), None).anomalies["ones"]) == 20
