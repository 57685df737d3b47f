"""A network that answers the same to every sample is no trained network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sparsense.errors import TrainingError
from sparsense.pipeline import run_recipe
from sparsense.recipe.load import read_recipe
from sparsense.training.alive import SAME, SHUT, check_alive

RECIPE = """
name: dead
network: {source: 'own_networks:ShutAutoencoder', weights: null}
data:
  train: {source: digits, split: train, limit: 96}
  calibration: {source: digits, split: calibration, limit: 40}
  test: {source: digits, split: test, limit: 40}
  anomalies: {letters: {source: letters, limit: 40}}
train: {epochs: 2, batch_size: 16, optimizer: adam, learning_rate: 1e-3, objective: {name: reconstruction}}
sensitivity: {loss: reconstruction, samples: 40}
prune: null
finetune: null
batch_norm: null
heads: [reconstruction_error]
fit: {samples: 40}
calibrate: {false_alarm_rate: 0.1}
benchmark: null
"""


def autoencoder(bias: float) -> nn.Module:
    torch.manual_seed(0)
    last = nn.Linear(3, 6)
    nn.init.constant_(last.bias, bias)
    return nn.Sequential(nn.Linear(6, 3), last, nn.Sigmoid())


def test_shut_units_are_told_with_what_to_try() -> None:
    inputs = torch.rand(300, 6)
    check_alive(autoencoder(0.0), inputs, rate=1e-3)
    with pytest.raises(TrainingError, match=r"answers the same to every .* learning rate 0\.001") as caught:
        check_alive(autoencoder(-40.0), inputs, rate=1e-3)
    assert caught.value.learning_rate == 1e-3


def test_a_classifier_with_equal_logits_is_told_and_small_ones_are_not() -> None:
    inputs = torch.rand(300, 6)
    dead = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    nn.init.constant_(dead[0].bias, -40.0)
    with pytest.raises(TrainingError, match="answers the same"):
        check_alive(dead, inputs, rate=0.1)
    small = nn.Linear(6, 3)
    with torch.no_grad():
        small.weight.mul_(1e-6)
        small.bias.zero_()
    check_alive(small, inputs, rate=0.1)


@pytest.mark.parametrize("columns", [1, 3, 30])
def test_answers_that_are_equal_are_told_whatever_their_size(columns: int) -> None:
    """The standard deviation of equal float32 is not always 0."""
    for seed in range(50):
        torch.manual_seed(seed)
        dead = nn.Sequential(nn.Linear(columns, 4), nn.ReLU(), nn.Linear(4, columns), nn.Sigmoid())
        nn.init.constant_(dead[0].bias, -1e3)
        for same in (SAME, SHUT):
            with pytest.raises(TrainingError, match="answers the same"):
                check_alive(dead, torch.rand(300, columns), rate=1e-3, same=same)


def test_a_classifier_that_answers_nothing_but_zero_is_told() -> None:
    dead = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3, bias=False))
    nn.init.constant_(dead[0].bias, -40.0)
    with pytest.raises(TrainingError, match="answers the same"):
        check_alive(dead, torch.rand(300, 6), rate=0.1)


def test_one_sample_or_equal_samples_say_nothing() -> None:
    check_alive(autoencoder(-40.0), torch.rand(1, 6), rate=0.1)
    check_alive(autoencoder(-40.0), torch.ones(9, 6), rate=0.1)


def test_a_run_whose_network_dies_says_so_instead_of_shipping_it(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="answers the same to every training sample"):
        run_recipe(read_recipe(RECIPE, {}), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    log = (tmp_path / "run.csv").read_text(encoding="utf-8")
    assert len(log.splitlines()) == 2  # a header and the first of two epochs
