"""The recipe that whole runs share: small enough for seconds, changed by dotted keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from sparsense.recipe.load import read_recipe
from sparsense.recipe.schema import Recipe

RECIPE = """
name: tiny
network: {source: digits_resnet, weights: bundled}
data:
  train: {source: digits, split: train, limit: 200}
  calibration: {source: digits, split: calibration, limit: 60}
  test: {source: digits, split: test, limit: 80}
  anomalies:
    letters: {source: letters, limit: 40}
sensitivity: {samples: 60}
prune: {sparsity: 0.5, round_to: 8}
batch_norm: {samples: 200}
finetune: {epochs: 1, batch_size: 32}
heads: [sensnorm_profile, {name: sensnorm, options: {p: 5}}]
fit: {samples: 200}
calibrate: {false_alarm_rate: 0.1}
benchmark: {rounds: 6, batch_sizes: [1]}
"""


@pytest.fixture(scope="session")
def recipe() -> Callable[..., Recipe]:
    """`recipe()` or `recipe({"prune.sparsity": 0.7})`."""
    return partial(read_recipe, RECIPE)
