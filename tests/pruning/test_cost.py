"""Parameters and multiply-adds against closed forms."""

import pytest
import torch
from torch import nn

from sparsense.pruning.cost import measure_cost


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 5, 7), 8 * 3 * 9 * 35),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4), (1, 4, 6, 6), 8 * 1 * 9 * 9),
        (nn.Conv1d(2, 5, 4), (3, 2, 9), 5 * 2 * 4 * 6),
        (nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3), 2 * 8 * 8),
        (nn.ConvTranspose2d(4, 6, 2, 2), (2, 4, 5, 5), 4 * 6 * 4 * 25),
        (nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 5), 4 * 3 * 3 * 5),
        (nn.Linear(7, 3), (5, 7), 21),
        (nn.Linear(7, 3), (5, 4, 7), 84),
        (nn.BatchNorm2d(3), (2, 3, 4, 4), 0),
    ],
)
def test_layers_cost_their_closed_form(layer, shape, expected):
    cost = measure_cost(nn.Sequential(layer), torch.zeros(shape))
    assert cost.multiply_adds == expected
    assert cost.parameters == sum(p.numel() for p in layer.parameters())


def test_attention_counts_its_projections():
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    cost = measure_cost(layer, torch.zeros(3, 5, 8))
    assert cost.by_layer == {"self_attn": 5 * (3 * 64 + 64), "linear1": 5 * 96, "linear2": 5 * 96}


def test_a_layer_called_twice_counts_twice_and_its_parameters_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.alias = self.layer

        def forward(self, x):
            return self.layer(self.layer(x))

    module = Twice().train()
    cost = measure_cost(module, torch.zeros(2, 4))
    assert (cost.parameters, cost.multiply_adds) == (20, 32)
    assert module.training
    assert not module.layer._forward_hooks
