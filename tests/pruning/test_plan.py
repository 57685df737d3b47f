"""The saliency of units, and the rounding of widths."""

import pytest
import torch
from families import make
from torch import nn

from sparsense.pruning.channels import channel_groups
from sparsense.pruning.plan import ChannelOptions, rounded, unit_saliency
from sparsense.recording.layers import prunable_weights


def chain():
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2), nn.Flatten(), nn.Linear(75, 2))
    return module, torch.randn(2, 2, 6, 6), {name: torch.rand_like(w) for name, w in prunable_weights(module).items()}


@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("count", ["both", "producers"])
def test_units_sum_the_weights_that_make_and_read_them(count, reduce):
    module, x, saliency = chain()
    first, second, _ = channel_groups(module, x)
    options = ChannelOptions(count=count, reduce=reduce, normalise="none")
    conv, up, head = (saliency[f"{i}.weight"].double() for i in (0, 2, 4))
    sides = {
        0: (first, [conv.flatten(1), up.flatten(1)]),
        1: (second, [up.transpose(0, 1).flatten(1), head.reshape(2, 3, 25).transpose(0, 1).flatten(1)]),
    }
    for group, parts in sides.values():
        used = torch.cat(parts[: 1 if count == "producers" else 2], 1)
        expected = used.sum(1) if reduce == "sum" else used.mean(1)
        torch.testing.assert_close(unit_saliency(module, group, saliency, options), expected)


def test_normalised_groups_have_mean_one():
    module, x, saliency = chain()
    for group in channel_groups(module, x)[:2]:
        assert float(unit_saliency(module, group, saliency, ChannelOptions()).mean()) == pytest.approx(1)


def test_coupled_producers_are_summed():
    module, x = make("resnet")
    saliency = {name: torch.rand_like(w) for name, w in prunable_weights(module).items()}
    group = channel_groups(module, x)[0]
    options = ChannelOptions(count="producers", normalise="none")
    expected = saliency["0.weight"].double().flatten(1).sum(1) + saliency["1.conv2.weight"].double().flatten(1).sum(1)
    torch.testing.assert_close(unit_saliency(module, group, saliency, options), expected)


@pytest.mark.parametrize(
    ("left", "expected"), [(16, 16), (15, 16), (13, 12), (11, 12), (10, 8), (9, 8), (7, 8), (5, 4), (3, 4), (1, 4)]
)
def test_widths_go_to_the_nearest_multiple_and_down_when_between(left, expected):
    module = nn.Sequential(nn.Conv2d(1, 16, 1), nn.Flatten(), nn.Linear(64, 2))
    group = channel_groups(module, torch.randn(2, 1, 2, 2))[0]
    assert 16 - rounded(group, torch.arange(15), 16 - left, 4) == expected


def test_rounding_keeps_to_what_may_go():
    module = nn.Sequential(nn.Conv2d(1, 16, 1), nn.Flatten(), nn.Linear(64, 2))
    group = channel_groups(module, torch.randn(2, 1, 2, 2))[0]
    assert 16 - rounded(group, torch.arange(7), 7, 8) == 16  # 8 would need 8 units, only 7 may go
    assert rounded(group, torch.arange(15), 5, 16) == 0
    assert rounded(group, torch.arange(15), 5, 1) == 5
