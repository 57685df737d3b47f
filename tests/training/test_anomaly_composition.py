"""Objectives of anomaly training on networks that were pruned: by masks that stay, and by channels that are gone."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sparsense.networks import load_network
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.weights import select_weights
from sparsense.recording.passes import saliency_of
from sparsense.training.batches import Batches
from sparsense.training.loop import Training, seeded, train
from sparsense.training.objectives import GradCon, GradientRegularization, LatentNorm, Reconstruction
from sparsense.training.settings import TrainingSettings

SETTINGS = TrainingSettings(epochs=3, learning_rate=3e-3, optimizer="adam", schedule="constant", weight_decay=0.0)
IMAGES = torch.linspace(0.6, 1, 12)[:, None, None, None] * torch.linspace(0.5, 1, 28) * torch.ones(1, 1, 28, 1)


def autoencoder():
    with seeded(0):
        return load_network("gradcon_autoencoder").module


def batches(inputs=IMAGES, labels=None):
    return Batches(inputs, torch.zeros(len(inputs)) if labels is None else labels, batch_size=6, seed=1)


def test_gradcon_is_fitted_again_after_channels_are_gone():
    module, data = autoencoder(), batches()
    before = GradCon()
    train(module, before, data, settings=SETTINGS)
    report = prune_channels(module, IMAGES[:2], saliency_of(module, "magnitude"), sparsity=0.5)
    smaller, again = report.module, GradCon()
    assert sum(p.numel() for p in smaller.parameters()) < 0.5 * sum(p.numel() for p in module.parameters())
    error = Reconstruction().scores(smaller, IMAGES).mean()
    train(smaller, again, data, settings=replace(SETTINGS, epochs=12))
    assert Reconstruction().scores(smaller, IMAGES).mean() < 0.9 * error
    named = dict(smaller.named_parameters())
    assert list(again.means) == list(before.means)
    assert all(mean.shape == named[name].shape for name, mean in again.means.items())
    assert again.steps == 24


def test_the_code_of_a_pruned_network_is_found_where_it_was():
    module = autoencoder()
    report = prune_channels(module, IMAGES[:2], saliency_of(module, "magnitude"), sparsity=0.5)
    code = report.module.encoder(IMAGES)
    error = (report.module(IMAGES) - IMAGES).flatten(1).norm(dim=1)
    expected = (error + 2 * code.flatten(1).norm(dim=1)).mean()
    torch.testing.assert_close(LatentNorm(beta=2)(report.module, (IMAGES, None)), expected)


def test_greg_goes_on_after_channels_are_gone():
    with seeded(0):
        module = nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 3))
        known, outliers = torch.rand(24, 6), torch.rand(30, 6) + 0.5
    smaller = prune_channels(module, known[:2], saliency_of(module, "magnitude"), sparsity=0.5).module
    assert [part.out_features for part in smaller if isinstance(part, nn.Linear)] != [24, 16, 3]
    objective = GradientRegularization(outliers, margin_in=-3.0, margin_out=-1.5, energy_weight=1.0)
    assert gap(objective, smaller, known, outliers) < 0.5
    data = batches(known, torch.arange(24) % 3)
    train(smaller, objective, data, settings=replace(SETTINGS, epochs=60, learning_rate=1e-2))
    assert gap(objective, smaller, known, outliers) > 1


def gap(objective, module, known, outliers):
    """By how much outliers lie above samples."""
    with torch.no_grad():
        return float(objective.scores(module, outliers).mean() - objective.scores(module, known).mean())


def test_amplification_on_a_pruned_latent_norm_autoencoder():
    module = autoencoder()
    smaller = prune_channels(module, IMAGES[:2], saliency_of(module, "magnitude"), sparsity=0.5).module
    objective = LatentNorm(beta=0.01, error="l2", amplify="element")
    with torch.no_grad():
        before, code = float(objective(smaller, (IMAGES, None))), smaller.encoder(IMAGES)
        expected = -torch.log1p(-((smaller(IMAGES) - IMAGES) ** 2)).mean() + 0.01 * code.flatten(1).norm(dim=1).mean()
    assert before == pytest.approx(float(expected), rel=1e-5)
    train(smaller, objective, batches(), settings=replace(SETTINGS, epochs=12))
    with torch.no_grad():
        assert float(objective(smaller, (IMAGES, None))) < 0.5 * before


@pytest.mark.parametrize("name", ["gradcon", "gradient_regularization"])
def test_masks_stay(name):
    if name == "gradcon":
        module, objective, data = autoencoder(), GradCon(), batches()
    else:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))
        objective = GradientRegularization(torch.rand(30, 6) + 1, margin_in=-1.2, margin_out=-1.0)
        data = batches(torch.rand(12, 6), torch.arange(12) % 3)
    mask = select_weights(module, saliency_of(module, "magnitude"), sparsity=0.7)
    mask.apply_(module)
    zeros = {n: p == 0 for n, p in module.named_parameters() if p.ndim > 1}
    before = {n: p.clone() for n, p in module.named_parameters()}
    run = Training(module, objective, data, SETTINGS)
    while not run.done:
        run.epoch(after_step=lambda: mask.apply_(module))
    after = dict(module.named_parameters())
    assert sum(int(zero.sum()) for zero in zeros.values()) > 0
    assert all(not after[n][zero].any() for n, zero in zeros.items())
    assert all(not torch.equal(after[n], before[n]) for n in before)
