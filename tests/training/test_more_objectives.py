"""Distillation, reconstruction, attacks, outliers and noise against their formulas."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import TrainingError, UnknownNameError
from sparsense.training.objectives import (
    Adversarial,
    Context,
    CrossEntropy,
    Distillation,
    Noise,
    OutlierExposure,
    Reconstruction,
    make_objective,
)
from sparsense.training.objectives.distillation import mixture

torch.manual_seed(0)
INPUTS, LABELS = torch.randn(6, 2, 3, 3), torch.tensor([0, 1, 2, 0, 1, 2])
BATCH = (INPUTS, LABELS)


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(4, 3)).eval()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_distillation_is_its_formula(temperature, weight):
    student, teacher = net(1), net(2)
    p = torch.softmax(teacher(INPUTS) / temperature, 1)
    q = torch.softmax(student(INPUTS) / temperature, 1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    hard = -torch.log_softmax(student(INPUTS), 1)[torch.arange(6), LABELS].mean()
    found = Distillation(teacher, temperature=temperature, weight=weight)(student, BATCH)
    torch.testing.assert_close(found, (1 - weight) * hard + weight * temperature**2 * divergence)
    found.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_network_learns_nothing_from_itself():
    student = net(1)
    loss = Distillation(student, weight=1.0)(student, BATCH)
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert max(float(parameter.grad.abs().max()) for parameter in student.parameters()) < 1e-5


def test_reconstruction_is_the_mean_square():
    module = nn.Conv2d(2, 2, 1)
    found = Reconstruction()(module, BATCH)
    assert found.item() == pytest.approx(np.mean((module(INPUTS) - INPUTS).detach().numpy() ** 2), rel=1e-5)


PREPROCESSING = Preprocessing(mean=(0.4, 0.6), std=(0.2, 0.5))


def test_attacks_move_every_pixel_by_epsilon_in_units_of_images_and_stay_in_range():
    module = net(1)
    images = torch.rand(6, 2, 3, 3)
    mean, std = (torch.tensor(v).reshape(1, 2, 1, 1) for v in (PREPROCESSING.mean, PREPROCESSING.std))
    objective = Adversarial(PREPROCESSING, epsilon=0.1)
    attacked = objective.attacked(module, (images - mean) / std, LABELS) * std + mean
    assert attacked.min() >= -1e-6
    assert attacked.max() <= 1 + 1e-6
    inside = (images > 0.1) & (images < 0.9)
    torch.testing.assert_close((attacked - images).abs()[inside], torch.full((int(inside.sum()),), 0.1))
    before = functional.cross_entropy(module((images - mean) / std), LABELS)
    assert functional.cross_entropy(module((attacked - mean) / std), LABELS) > before


def test_adversarial_is_its_formula_and_leaves_modes_alone():
    module = net(1)
    module[1].train()
    objective = Adversarial(PREPROCESSING, epsilon=0.05, weight=6.0)
    attacked = objective.attacked(module, INPUTS, LABELS)
    assert module[1].training
    module.eval()
    p, q = torch.softmax(module(INPUTS), 1), torch.softmax(module(attacked), 1)
    expected = functional.cross_entropy(module(INPUTS), LABELS) + 6 * (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(objective(module, BATCH), expected)
    assert torch.equal(
        Adversarial(PREPROCESSING, weight=0)(module, BATCH), functional.cross_entropy(module(INPUTS), LABELS)
    )


def test_outlier_exposure_is_cross_entropy_to_the_uniform_answer():
    module, outlier = net(1), torch.randn(1, 2, 3, 3)
    uniform = -torch.log_softmax(module(outlier), 1).mean()
    found = OutlierExposure(outlier, weight=0.5)(module, BATCH)
    torch.testing.assert_close(found, functional.cross_entropy(module(INPUTS), LABELS) + 0.5 * uniform)


def test_noise_disturbs_the_asked_share_by_the_asked_strength():
    seen = []

    def spy(inputs):
        seen.append(inputs)
        return inputs[:, :3]

    zeros = torch.zeros(4000, 4)
    Noise(strength=2.0, share=0.25)(spy, (zeros, torch.zeros(4000, dtype=torch.int64)))
    moved = seen[0][seen[0] != 0]
    assert moved.numel() / zeros.numel() == pytest.approx(0.25, abs=0.02)
    assert moved.std().item() == pytest.approx(2.0, rel=0.05)
    Noise(strength=0.0)(spy, (zeros, torch.zeros(4000, dtype=torch.int64)))
    assert not seen[1].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Distillation(net(1), temperature=0), "temperature > 0"),
        (lambda: Distillation(net(1), weight=1.5), "weight between 0 and 1"),
        (lambda: Adversarial(PREPROCESSING, epsilon=-1), "epsilon >= 0"),
        (lambda: OutlierExposure(INPUTS, weight=-1), "weight >= 0"),
        (lambda: Noise(share=2), "share between 0 and 1"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_objectives_are_made_by_name_with_what_they_need():
    made = make_objective("distillation", {"temperature": 2.0}, Context(teacher=net(1)))
    assert isinstance(made, Distillation)
    assert made.temperature == 2.0
    assert make_objective("cross_entropy", {"label_smoothing": 0.1}, Context()) == CrossEntropy(label_smoothing=0.1)
    with pytest.raises(
        TrainingError, match=r"'outlier_exposure' needs outliers to learn from; name them .* data.outliers"
    ):
        make_objective("outlier_exposure", {}, Context())
    with pytest.raises(UnknownNameError, match="Did you mean 'distillation'"):
        make_objective("distilation", {}, Context())


def test_distillation_of_mixed_inputs_is_its_formula(monkeypatch):
    parts, others = torch.tensor([0.0, 1.0, 0.25, 0.5, 0.9, 0.3]), torch.tensor([3, 0, 5, 1, 4, 2])
    monkeypatch.setattr("sparsense.training.objectives.distillation.mixture", lambda samples, mix: (parts, others))
    student, teacher = net(1), net(2)
    pairs = [(m, i, j) for i, (m, j) in enumerate(zip(parts, others, strict=True))]
    inputs = torch.stack([m * INPUTS[i] + (1 - m) * INPUTS[j] for m, i, j in pairs])
    p, q = (torch.softmax(module(inputs) / 2, 1) for module in (teacher, student))
    logs = torch.log_softmax(student(inputs), 1)
    hard = -sum(m * logs[i, LABELS[i]] + (1 - m) * logs[i, LABELS[j]] for m, i, j in pairs) / 6
    expected = 0.4 * hard + 0.6 * 4 * (p * (p.log() - q.log())).sum(1).mean()
    found = Distillation(teacher, temperature=2.0, weight=0.6, mix=1.0)(student, BATCH)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mix", [0.2, 1.0, 5.0])
def test_parts_of_a_mixture_are_spread_as_asked(mix):
    torch.manual_seed(0)
    parts, others = mixture(4000, mix)
    assert sorted(others.tolist()) == list(range(4000))
    assert float(parts.var()) == pytest.approx(1 / (4 * (2 * mix + 1)), rel=0.05)
    assert float(parts.mean()) == pytest.approx(0.5, abs=0.02)


def test_mixtures_follow_the_seed():
    losses, objective, student = [], Distillation(net(2), mix=1.0), net(1)
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(objective(student, BATCH).item())
    assert losses[0] == losses[1] != losses[2]
    with pytest.raises(ValueError, match="mix >= 0"):
        Distillation(net(2), mix=-1.0)
