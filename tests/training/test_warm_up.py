"""The first epochs make something simpler small; what chooses an epoch is the later objective throughout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sparsense.errors import TrainingError
from sparsense.training.batches import Batches
from sparsense.training.loop import Training
from sparsense.training.objectives import Adversarial, CrossEntropy, Distillation, GradCon, Noise, OutlierExposure
from sparsense.training.selection import HeldOut, Selection
from sparsense.training.settings import TrainingSettings
from sparsense.training.warm_up import WarmUp


class Told:
    """Cross entropy that keeps a list of whether it was called in training."""

    def __init__(self) -> None:
        self.calls: list[bool] = []

    def __call__(self, module, batch):
        self.calls.append(module.training)
        return CrossEntropy()(module, batch)


def run(epochs_of_warm_up):
    torch.manual_seed(0)
    inputs, labels = torch.randn(12, 3), torch.arange(12) % 2
    first, then = Told(), Told()
    training = Training(
        nn.Linear(3, 2), WarmUp(first, then, epochs=epochs_of_warm_up), Batches(inputs, labels, batch_size=6),
        TrainingSettings(epochs=3), selection=Selection("val_loss", HeldOut(inputs[:4], labels[:4])),
    )  # fmt: skip
    while not training.done:
        training.epoch()
    return first.calls, then.calls


@pytest.mark.parametrize("epochs", [0, 1, 2, 3])
def test_each_objective_trains_its_epochs_and_the_later_one_judges_all(epochs):
    first, then = run(epochs)
    assert first == [True] * 2 * epochs  # two batches to an epoch
    assert sorted(then) == [False] * 3 + [True] * 2 * (3 - epochs)


def test_an_objective_with_a_memory_is_refused():
    with pytest.raises(TrainingError, match=r"warming up for GradCon: it has .*set warm_up to 0"):
        WarmUp(CrossEntropy(), GradCon(), epochs=1)


def objectives():
    from sparsense.data.preprocessing import Preprocessing

    return [
        CrossEntropy(), Noise(), OutlierExposure(torch.zeros(2, 3)), Distillation(nn.Identity()),
        Adversarial(Preprocessing(mean=(0.5,), std=(0.5,))), WarmUp(CrossEntropy(), Noise(), epochs=1),
    ]  # fmt: skip


@pytest.mark.parametrize("objective", objectives(), ids=lambda objective: type(objective).__name__)
def test_classifiers_are_scored_by_how_far_the_largest_probability_is_from_one(objective):
    logits = np.array([[1.0, 2.0, 0.0], [5.0, -1.0, 0.5]])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = objective.scores(nn.Identity(), torch.from_numpy(logits))
    np.testing.assert_allclose(found, 1 - probabilities.max(1), rtol=1e-6, atol=1e-7)
