"""Dead channels go, and nothing changes."""

import pytest
import torch
from families import make
from torch import nn

from sparsense.criteria import CRITERIA
from sparsense.errors import UnsupportedLayerError
from sparsense.pruning.compact import compact
from sparsense.pruning.cost import measure_cost
from sparsense.pruning.weights import select_weights
from sparsense.recording.layers import prunable_weights

ROWS = [
    "resnet", "wide_resnet", "densenet", "vgg", "mobilenet_v2", "mobilenet_v3", "squeezenet", "unet", "mlp", "conv1d",
    "conv3d", "grouped", "shared", "bottleneck_autoencoder",
]  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_outputs_stay_and_what_is_left_is_alive(name):
    module, x = make(name)
    for parameter in module.parameters():  # a convolution's bias alone can keep a channel alive
        if parameter.ndim == 1:
            parameter.data.neg_().clamp_(max=0) if "bias" in name else None
    mask = select_weights(module, CRITERIA["magnitude"](prunable_weights(module)), sparsity=0.9, floor=0)
    mask.apply_(module)
    result = compact(module, x)
    for inputs in (x, torch.randn_like(x) * 5):
        torch.testing.assert_close(result.module(inputs), module(inputs), rtol=1e-5, atol=1e-6)
    assert result.proof < 1e-6
    assert result.after == measure_cost(result.module, x)
    assert result.after.parameters <= result.before.parameters
    again = compact(result.module, x)
    assert again.removed == {}


def chain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(),
        nn.Conv2d(5, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2),
    ).eval()  # fmt: skip


@torch.no_grad()
def test_channels_that_arrive_as_zero_or_are_not_read_go():
    module, x = chain(), torch.randn(3, 1, 4, 4)
    module[0].weight[1] = 0
    module[0].bias[1] = 3.0
    module[1].running_mean[1] = 5.0  # the constant 3 - 5 < 0 dies in the activation
    module[5].weight[:, 2] = 0  # channel 2 of the middle is not read
    result = compact(module, x)
    assert result.removed == {"0": 1, "3": 1}
    torch.testing.assert_close(result.module(x), module(x))


@torch.no_grad()
def test_a_constant_that_is_not_zero_stays():
    module, x = chain(), torch.randn(3, 1, 4, 4)
    module[0].weight[1] = 0
    module[0].bias[1] = 3.0
    module[1].running_mean[1] = 0.0
    assert compact(module, x).removed == {}


@torch.no_grad()
def test_a_constant_beside_a_dead_channel_does_not_keep_it():
    module, x = chain(), torch.randn(3, 1, 4, 4)
    module[0].weight[1:3] = 0
    module[0].bias[1:3] = torch.tensor([3.0, -3.0])
    result = compact(module, x)
    assert result.removed == {"0": 1}
    torch.testing.assert_close(result.module[0].bias, module[0].bias[[0, 1, 3]])


@torch.no_grad()
def test_death_spreads_backwards_and_forwards():
    module, x = chain(), torch.randn(3, 1, 4, 4)
    module[5].weight[:, 2] = 0  # nothing reads channel 2 of the middle,
    module[3].weight[:2, 3] = 0  # so channel 3 of the first layer, read by it alone, is not read either
    module[3].weight[3:, 3] = 0
    result = compact(module, x)
    assert result.removed == {"3": 1, "0": 1}


@torch.no_grad()
def test_a_whole_dead_layer_keeps_one_unit():
    module, x = chain(), torch.randn(3, 1, 4, 4)
    module[3].weight.zero_()
    module[3].bias.zero_()
    result = compact(module, x)
    assert result.module[3].out_channels == 1
    torch.testing.assert_close(result.module(x), module(x))


@torch.no_grad()
def test_an_empty_depthwise_filter_cuts_the_chain():
    module = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU6(), nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.ReLU6(),
                           nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(16, 3)).eval()  # fmt: skip
    module[2].weight[4] = 0
    x = torch.randn(2, 3, 4, 4)
    result = compact(module, x)
    assert result.removed == {"0": 2}  # one channel of the convolution and one of the depthwise one
    assert result.module[2].groups == 5
    torch.testing.assert_close(result.module(x), module(x))


@torch.no_grad()
def test_one_empty_branch_of_a_sum_is_not_a_dead_channel():
    module, x = make("resnet")
    module[1].conv2.weight[3] = 0
    module[1].norm2.weight[3] = module[1].norm2.bias[3] = 0
    assert compact(module, x).removed == {}


def test_outputs_that_are_not_numbers_are_refused():
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    module[2].bias.data.fill_(torch.nan)
    with pytest.raises(UnsupportedLayerError, match=r"the network \(Sequential\) cannot .* its outputs are NaN"):
        compact(module, torch.randn(2, 4))
