"""Attacks against closed forms, another library, and on a detector's own score."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsense.data.dataset import Dataset
from sparsense.detector import fit_head
from sparsense.errors import InputError
from sparsense.heads import HEADS
from sparsense.robustness.attack import Ball, fgsm, lengths, pgd
from sparsense.robustness.measure import share_under_attack
from sparsense.robustness.slopes import classifier_slope, score_slope
from tiny_classifier import CLASSES, SIDE, tiny_graph, tiny_network

WEIGHTS = np.array([3.0, -4.0, 0.0, 12.0])


def linear(inputs):
    return inputs @ WEIGHTS, np.broadcast_to(WEIGHTS, inputs.shape).copy()


def bowl(inputs):
    """Highest at 0.5."""
    return -((inputs - 0.5) ** 2).sum(1), -2 * (inputs - 0.5)


def images(count=24, seed=0):
    return np.random.default_rng(seed).random((count, 3, SIDE, SIDE))


def test_the_largest_change_of_a_linear_value_is_the_dual_norm_times_the_radius():
    middle = np.full((1, 4), 0.5)
    for ball, dual in ((Ball("linf", 0.1), np.abs(WEIGHTS).sum()), (Ball("l2", 0.1), np.sqrt((WEIGHTS**2).sum()))):
        found = pgd(middle, linear, ball, steps=10)
        assert linear(found)[0] - linear(middle)[0] == pytest.approx(dual * ball.radius)
    np.testing.assert_allclose(
        fgsm(middle, linear, Ball("linf", 0.1)), pgd(middle, linear, Ball("linf", 0.1), steps=1, step=0.1)
    )


def test_an_optimum_within_reach_is_found_and_kept():
    start = np.array([[0.45, 0.55], [0.2, 0.5]])
    found = pgd(start, bowl, Ball("l2", 0.1), steps=60, step=0.02)
    np.testing.assert_allclose(found[0], 0.5, atol=0.02)
    np.testing.assert_allclose(found[1], [0.3, 0.5], atol=1e-6)  # as far as it may go


@given(st.sampled_from(["linf", "l2"]), st.floats(0.01, 2.0), st.integers(0, 1000), st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_attack_stays_in_its_ball_and_never_makes_the_value_smaller(norm, radius, seed, somewhere):
    random = np.random.default_rng(seed)
    inputs = random.random((5, 4))
    found = pgd(inputs, bowl, Ball(norm, radius), steps=4, random=random if somewhere else None)
    assert found.min() >= 0
    assert found.max() <= 1
    distance = np.abs(found - inputs).max(1) if norm == "linf" else lengths(found - inputs).ravel()
    assert (distance <= radius * (1 + 1e-9)).all()
    if not somewhere:
        assert (bowl(found)[0] >= bowl(inputs)[0]).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: Ball("l3", 0.1),
        lambda: Ball("l2", 0.0),
        lambda: pgd(np.full((1, 4), 1.5), linear, Ball("l2", 0.1)),
        lambda: pgd(np.full((1, 4), 0.5), linear, Ball("l2", 0.1), steps=0),
    ],
)
def test_senseless_attacks_are_refused(call):
    with pytest.raises(InputError, match="attacking: expected"):
        call()


class Unit(torch.nn.Module):
    """The network for images in [0, 1], as attack libraries want it."""

    def __init__(self):
        super().__init__()
        network = tiny_network()
        shape = (1, -1, 1, 1)
        self.module = network.module
        self.mean, self.std = (torch.tensor(v).reshape(shape) for v in
                               (network.preprocessing.mean, network.preprocessing.std))  # fmt: skip

    def forward(self, x):
        return self.module((x - self.mean) / self.std)


def labels(inputs):
    return Unit()(torch.tensor(inputs, dtype=torch.float32)).argmax(1).numpy()


def test_the_slope_of_a_classifier_is_its_gradient():
    inputs, wanted = images(5), np.arange(5) % CLASSES
    value, gradient = classifier_slope(tiny_network(), wanted)(inputs)
    pixels = torch.tensor(inputs, dtype=torch.float32, requires_grad=True)
    losses = torch.nn.functional.cross_entropy(Unit()(pixels), torch.tensor(wanted), reduction="none")
    losses.sum().backward()
    np.testing.assert_allclose(value, losses.detach(), rtol=1e-5)
    np.testing.assert_allclose(gradient, pixels.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_another_library_finds_the_same(norm):
    torchattacks = pytest.importorskip("torchattacks")
    inputs = images(6)
    wanted = labels(inputs)
    radius, step = (0.05, 0.02) if norm == "linf" else (0.5, 0.2)
    kind = torchattacks.PGD if norm == "linf" else torchattacks.PGDL2
    attack = kind(Unit().eval(), eps=radius, alpha=step, steps=1, random_start=False)
    theirs = attack(torch.tensor(inputs, dtype=torch.float32), torch.tensor(wanted)).numpy()
    ours = pgd(inputs, classifier_slope(tiny_network(), wanted), Ball(norm, radius), steps=1, step=step)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_stronger_attack_leaves_less_accuracy():
    inputs = images(32)
    wanted = labels(inputs)
    found = share_under_attack(
        inputs, lambda x: labels(x) == wanted, classifier_slope(tiny_network(), wanted),
        [Ball("linf", r) for r in (0.01, 0.05, 0.3)], steps=8,
    )  # fmt: skip
    assert found.radii == [0.0, 0.01, 0.05, 0.3]
    assert found.shares[0] == 1.0
    assert found.shares == sorted(found.shares, reverse=True)
    assert found.shares[-1] < 0.5


# The detector's own score


def scored(name):
    data = Dataset("train", (images(80, 5).transpose(0, 2, 3, 1) * 255).astype(np.uint8), np.arange(80) % CLASSES)
    return fit_head(tiny_graph(), HEADS[name](), data, preprocessing=tiny_network().preprocessing)


@pytest.mark.parametrize("name", ["energy", "mahalanobis", "sensnorm"])
def test_the_slope_of_a_score_is_its_gradient(name):
    slope = score_slope(scored(name), tiny_network().preprocessing, sign=1)
    inputs, random, step = images(6, 3), np.random.default_rng(0), 1e-3
    direction = random.normal(size=inputs.shape)
    value, gradient = slope(inputs)
    up, down = slope(inputs + step * direction)[0], slope(inputs - step * direction)[0]
    along = (gradient * direction).sum((1, 2, 3))
    close = np.abs((up - down) / (2 * step) - along) <= 0.05 * np.abs(along) + 2e-3 * np.abs(value).max()
    assert close.mean() >= 0.6  # inputs within a step of a kink differ


@pytest.mark.parametrize("name", ["energy", "mahalanobis"])
def test_an_anomaly_that_knows_the_detector_lowers_its_score(name):
    slope = score_slope(scored(name), tiny_network().preprocessing)
    inputs = images(12, 4)
    before, after = -slope(inputs)[0], -slope(pgd(inputs, slope, Ball("linf", 0.1), steps=10))[0]
    assert (after < before).all()
    gentle = -slope(pgd(inputs, slope, Ball("linf", 0.02), steps=10))[0]
    assert after.mean() < gentle.mean() < before.mean()


def test_the_score_of_the_slope_is_the_score_of_the_graph():
    from sparsense.graph.run import Session

    found = scored("energy")
    pixels = (images(5, 8) * 255).astype(np.uint8)
    (expected,) = Session(found.network.model, [found.score])(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)))
    value, _ = score_slope(found, tiny_network().preprocessing, sign=1)(pixels / 255)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
