"""Padded shortcuts become convolutions that equal them, bit for bit."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from own_networks import Lambda, lambda_shortcut
from sparsense.networks import load_network
from sparsense.networks.cifar_resnet import CifarResNet
from sparsense.networks.shortcuts import PadShortcut, rewrite_pad_shortcuts


def randomised(module):
    """Batch norms with statistics that matter."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.running_mean.normal_()
            child.running_var.uniform_(0.5, 2)
    return module.eval()


@torch.no_grad()
def test_the_rewritten_resnet_equals_the_original_bit_for_bit():
    torch.manual_seed(0)
    original = randomised(CifarResNet(1))
    rewritten = copy.deepcopy(original)
    names = rewrite_pad_shortcuts(rewritten, torch.randn(2, 3, 32, 32))
    assert names == ["layer2.0.shortcut", "layer3.0.shortcut"]
    inputs = torch.randn(5, 3, 32, 32)
    assert torch.equal(rewritten(inputs), original(inputs))


def test_no_padded_shortcut_is_left_in_a_loaded_network():
    module = load_network("cifar_resnet20").module
    assert not any(isinstance(child, PadShortcut) for child in module.modules())
    assert isinstance(module.layer3[0].shortcut, nn.Conv2d)


@torch.no_grad()
@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_shortcut_is_recognised_by_what_it_computes(before, stride):
    module = lambda_shortcut(before, stride).eval()
    inputs = torch.randn(3, 1, 9, 9)
    expected = module(inputs)
    assert rewrite_pad_shortcuts(module, inputs) == ["2"]
    assert isinstance(module[2], nn.Conv2d)
    assert torch.equal(module(inputs), expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cat([x, x], 1),
        lambda x: functional.relu(functional.pad(x, (0, 0, 0, 0, 1, 1))),
        lambda x: functional.pad(x[:, :, 1::2, 1::2], (0, 0, 0, 0, 1, 1)),
        lambda x: functional.pad(x * 1.0000001, (0, 0, 0, 0, 1, 1)),
        lambda x: functional.pixel_unshuffle(x, 2),
        lambda x: torch.zeros_like(torch.cat([x, x], 1)),
        lambda x: functional.pad(functional.interpolate(x, scale_factor=2), (0, 0, 0, 0, 1, 1)),
    ],
)
def test_what_only_looks_like_a_shortcut_stays(function):
    module = nn.Sequential(Lambda(function)).eval()
    assert rewrite_pad_shortcuts(module, torch.randn(2, 2, 8, 8)) == []
    assert isinstance(module[0], Lambda)


def test_the_forward_hooks_are_taken_off_again_also_after_a_failure():
    module = lambda_shortcut()
    with pytest.raises(RuntimeError):
        rewrite_pad_shortcuts(module, torch.randn(2, 5, 9, 9))
    assert not any(child._forward_hooks for child in module.modules())


def test_odd_sizes_and_odd_differences_of_channels():
    shortcut = PadShortcut(2, 5, 2)
    output = shortcut(torch.ones(1, 2, 7, 7))
    assert output.shape == (1, 5, 4, 4)
    assert output.sum((0, 2, 3)).tolist() == [0, 16, 16, 0, 0]
