"""An untrained autoencoder starts at the mean of its samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sparsense.networks import load_network
from sparsense.training.start import start_at_mean


class Gated(nn.Module):
    """A sigmoid that is registered last, and is not what the network answers with."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, 3, 1)
        self.gate = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x * self.gate(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("source", ["gradcon_autoencoder", "gradcon_vae"])
def test_the_first_answer_is_the_mean_of_each_channel(source: str) -> None:
    torch.manual_seed(0)
    module = load_network(source, options={"channels": 2}).module
    inputs = torch.rand(64, 2, 28, 28) * torch.tensor([0.1, 0.9])[:, None, None]
    assert start_at_mean(module, inputs)
    bias = module.decoder[-2].bias
    torch.testing.assert_close(torch.sigmoid(bias), inputs.mean([0, 2, 3]))


def test_black_images_leave_the_sigmoid_open() -> None:
    module = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sigmoid())
    assert start_at_mean(module, torch.zeros(4, 1, 3, 3))
    assert torch.sigmoid(module[0].bias).item() == pytest.approx(0.01)


@pytest.mark.parametrize(
    "module",
    [Gated(), nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Sigmoid()),
     nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid(), nn.ReLU())],
    ids=["gate", "linear", "no bias", "not last"],
)  # fmt: skip
def test_other_endings_stay_as_they_are(module: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert not start_at_mean(module, torch.rand(8, 3, 4, 4))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_inputs_that_a_sigmoid_cannot_give_change_nothing() -> None:
    assert not start_at_mean(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid()), torch.randn(8, 3, 4, 4))


def test_pixels_brought_to_the_range_of_a_sigmoid_may_miss_it_by_rounding() -> None:
    images = torch.tensor([[1 + 1e-6, -1e-6], [0.0, 0.5]])[:, :, None, None]
    module = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Sigmoid())
    assert start_at_mean(module, images)
    torch.testing.assert_close(torch.sigmoid(module[0].bias), images.mean([0, 2, 3]))


def test_tables_begin_as_their_layers_do() -> None:
    assert not start_at_mean(nn.Sequential(nn.Linear(2, 2), nn.Sigmoid()), torch.rand(8, 2))
