"""Objectives against their formulas."""

import pytest
import torch
from torch import nn

from sparsense.training import OBJECTIVES


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_is_its_formula(smoothing):
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 3, 2, 1, 1])
    wanted = (1 - smoothing) * torch.eye(4, dtype=torch.float64)[labels] + smoothing / 4
    expected = -(wanted * (logits - logits.exp().sum(1, keepdim=True).log())).sum(1).mean()
    objective = OBJECTIVES["cross_entropy"](label_smoothing=smoothing)
    torch.testing.assert_close(objective(nn.Identity(), (logits, labels)), expected)


def test_the_loss_keeps_its_graph():
    module = nn.Linear(3, 2)
    OBJECTIVES["cross_entropy"]()(module, (torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))).backward()
    assert module.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("smoothing", [-0.1, 1.1])
def test_smoothing_is_a_share(smoothing):
    with pytest.raises(ValueError, match="label_smoothing must be between 0 and 1"):
        OBJECTIVES["cross_entropy"](label_smoothing=smoothing)
