"""Removal of channels over many families, against dead channels, by-hand cuts and counted costs."""

from copy import deepcopy

import pytest
import torch
from families import FAMILIES, make
from torch import nn

from sparsense.criteria import CRITERIA
from sparsense.errors import InputError, UnsupportedLayerError
from sparsense.pruning.channels import channel_groups, prune_channels
from sparsense.pruning.cost import measure_cost
from sparsense.pruning.groups import Side
from sparsense.pruning.plan import ChannelOptions
from sparsense.pruning.proof import DisproofError, prove
from sparsense.pruning.surgery import cut_, tensor_of
from sparsense.recording.layers import prunable_weights

REFUSED = {"transformer_separate", "transformer_fused", "mixer"}
CUT = [name for name in FAMILIES if name not in REFUSED]
KEEP = ChannelOptions(unsupported="keep")


def magnitude(module):
    return CRITERIA["magnitude"](prunable_weights(module))


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("name", CUT)
def test_families_are_cut_as_asked_and_the_original_stays(name, scope):
    module, x = make(name)
    before = deepcopy(module.state_dict())
    expected = module(x)
    report = prune_channels(module, x, magnitude(module), sparsity=0.3, scope=scope)
    assert report.module(x).shape == expected.shape
    assert report.proof < 1e-5
    assert report.reached >= 0.3
    counted = sum(g.width_before - g.width_after for g in report.groups) / sum(g.width_before for g in report.groups)
    assert report.reached == pytest.approx(counted)
    assert report.after.parameters < report.before.parameters
    assert report.after == measure_cost(report.module, x)
    assert torch.equal(module(x), expected)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in report.module.modules())


@pytest.mark.parametrize("name", sorted(set(CUT) - {"conv3d", "transformer", "convnext", "conv_autoencoder"}))
def test_removing_dead_channels_changes_nothing(name):
    """A channel whose makers are all zero is dead; the smaller network must compute what the whole one does."""
    module, x = make(name)
    groups = channel_groups(module, x)
    for group in groups:
        if bool(group.prunable.all()) and group.units > 2:
            for side, units in group.unit_of.items():
                if side.side == "out" and side.layer in dict(module.named_modules()):
                    _zero(module.get_submodule(side.layer), units == 1)
    saliency = {key: torch.ones_like(weight) for key, weight in prunable_weights(module).items()}
    for group in groups:
        for producer in group.producers:
            layer, units = module.get_submodule(producer), group.unit_of[Side(producer, "out")]
            dead = (units == 1) if bool(group.prunable.all()) and group.units > 2 else units < -1
            values = saliency[f"{producer}.weight"]
            (values if not getattr(layer, "transposed", False) else values.transpose(0, 1))[
                dead[: values.shape[1]] if getattr(layer, "transposed", False) else dead
            ] = 0
    free = [g for g in groups if bool(g.prunable.all()) and g.units > 2]
    removed = sum(int(g.channels_per_unit()[1]) for g in free)
    asked = (removed - 0.5) / sum(int(g.channels_per_unit().sum()) for g in groups)
    options = ChannelOptions(count="producers", floor=0)
    report = prune_channels(module, x, saliency, sparsity=asked, options=options)
    assert sum(g.width_before - g.width_after for g in report.groups) == removed
    torch.testing.assert_close(report.module(x), module(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def _zero(layer, dead):
    for key in ("weight", "bias"):
        tensor = tensor_of(layer, key)
        if isinstance(tensor, torch.Tensor):
            rows = tensor.transpose(0, 1) if getattr(layer, "transposed", False) and key == "weight" else tensor
            rows[dead[: len(rows)]] = 0


def test_a_residual_network_is_cut_like_by_hand():
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Flatten(),
                           nn.Linear(12, 2))  # fmt: skip
    with torch.no_grad():
        module[0].weight *= torch.tensor([3.0, 0.1, 2.0, 0.2])[:, None, None, None]
        module[3].weight.fill_(1.0)
        module[3].weight[1] *= 0.5
    x = torch.randn(2, 2, 4, 4)
    report = prune_channels(module, x, magnitude(module), sparsity=0.25, scope="layer",
                            options=ChannelOptions(count="producers"))  # fmt: skip
    pruned = report.module
    assert torch.equal(pruned[0].weight, module[0].weight[[0, 2]])
    assert torch.equal(pruned[1].running_var, module[1].running_var[[0, 2]])
    assert torch.equal(pruned[3].weight, module[3].weight[[0, 2]][:, [0, 2]])
    assert torch.equal(pruned[5].weight, module[5].weight[:, [0, 1, 2, 3, 8, 9, 10, 11]])
    assert (pruned[0].out_channels, pruned[1].num_features, pruned[3].in_channels, pruned[5].in_features) == (
        2,
        2,
        2,
        8,
    )
    assert report.widths_after == {"0": 2, "3": 2, "5": 2}


def test_a_wrong_cut_is_disproved():
    module, x = make("resnet")
    group = channel_groups(module, x)[1]
    removal = group.removed_channels(torch.arange(group.units) < 2)
    side = next(side for side in removal if side.side == "in")
    wrong = {**removal, side: removal[side].roll(3)}
    pruned = deepcopy(module)
    cut_(pruned, wrong)
    with pytest.raises(DisproofError, match="differs from masking"):
        prove(module, pruned, removal, x)
    broken = deepcopy(module)
    cut_(broken, {key: gone for key, gone in removal.items() if key != side})
    with pytest.raises(DisproofError, match="forward pass fails there with RuntimeError") as caught:
        prove(module, broken, removal, x)
    assert caught.value.layer == side.layer


@pytest.mark.parametrize("measure", ["channels", "parameters", "multiply_adds"])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("name", ["resnet", "densenet", "mobilenet_v3", "transformer", "grouped", "conv1d"])
def test_targets_are_reached_in_the_asked_measure(name, scope, measure):
    module, x = make(name)
    report = prune_channels(module, x, magnitude(module), sparsity=0.4, scope=scope, options=ChannelOptions(measure))
    shares = {
        "parameters": 1 - report.after.parameters / report.before.parameters,
        "multiply_adds": 1 - report.after.multiply_adds / report.before.multiply_adds,
        "channels": report.reached,
    }
    assert shares[measure] == pytest.approx(report.reached, abs=1e-9)
    assert 0.4 <= report.reached < 0.75  # one unit of these tiny networks is up to a fifth of them


@pytest.mark.parametrize("name", ["resnet", "vgg", "mobilenet_v2", "unet"])
@pytest.mark.parametrize("multiple", [2, 4])
def test_widths_are_rounded_to_the_nearest_multiple(name, multiple):
    module, x = make(name)
    options = ChannelOptions(round_to=multiple)
    report = prune_channels(module, x, magnitude(module), sparsity=0.3, options=options)
    for group in report.groups:
        if group.width_after < group.width_before:
            per_layer = group.width_after // len(group.producers)
            assert per_layer % multiple == 0, group
    assert report.reached >= 0.3


def test_a_layer_narrower_than_the_multiple_keeps_its_width_and_is_listed():
    module, x = make("vgg")
    report = prune_channels(module, x, magnitude(module), sparsity=0.1, options=ChannelOptions(round_to=8))
    after = report.widths_after
    assert after["0"] == 8  # not cut to nothing, not silently to 5
    assert after["8"] == 8 or after["4"] == 8


def test_flags_hooks_and_modes_survive():
    module, x = make("resnet")
    module.train()
    module[1].norm1.eval()
    module[1].requires_grad_(False)
    calls = []
    module[0].register_forward_hook(lambda *_: calls.append(1))
    gradients = [parameter.requires_grad for parameter in module.parameters()]
    report = prune_channels(module, x, magnitude(module), sparsity=0.3)
    assert [parameter.requires_grad for parameter in report.module.parameters()] == gradients
    assert [parameter.requires_grad for parameter in module.parameters()] == gradients
    for one, other in zip(module.modules(), report.module.modules(), strict=True):
        assert one.training == other.training
    assert len(module[0]._forward_hooks) == len(report.module[0]._forward_hooks) == 1
    assert all(parameter.grad is None for parameter in report.module.parameters())


def test_all_frozen_networks_are_cut_and_stay_frozen():
    module, x = make("mobilenet_v2")
    report = prune_channels(module.requires_grad_(False), x, magnitude(module), sparsity=0.3)
    assert report.after.parameters < report.before.parameters
    assert not any(parameter.requires_grad for parameter in report.module.parameters())


def test_pruning_can_go_on():
    module, x = make("resnet")
    widths = []
    for _ in range(4):
        module = prune_channels(module, x, magnitude(module), sparsity=0.2).module
        widths.append(measure_cost(module, x).parameters)
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 4


def test_gradients_of_the_smaller_network_are_those_of_the_masked_one():
    module, x = make("resnet")
    group = channel_groups(module, x)[1]
    removal = group.removed_channels(torch.arange(group.units) < 3)
    pruned = deepcopy(module)
    cut_(pruned, removal)
    pruned(x).sum().backward()
    masked = deepcopy(module)
    with torch.no_grad():
        masked[1].norm1.weight[:3] = masked[1].norm1.bias[:3] = 0
    masked(x).sum().backward()
    torch.testing.assert_close(pruned[1].conv2.weight.grad, masked[1].conv2.weight.grad[:, 3:])
    torch.testing.assert_close(pruned[0].weight.grad, masked[0].weight.grad)


def test_attention_keeps_whole_positions_of_every_head_and_its_scale():
    module, x = make("transformer")
    report = prune_channels(module, x, magnitude(module), sparsity=0.4)
    inner = report.module.attention.inner
    assert inner.embed_dim % inner.num_heads == 0
    assert inner.embed_dim < 8
    assert inner.head_dim * inner.num_heads == inner.embed_dim == report.module.norm1.normalized_shape[0]
    assert report.module.position.shape == (1, 5, inner.embed_dim)


def test_ignored_layers_keep_their_outputs():
    module, x = make("vgg")
    report = prune_channels(module, x, magnitude(module), sparsity=0.2, options=ChannelOptions(ignore=["0", "8"]))
    assert report.widths_after["0"] == 8
    assert report.widths_after["8"] == 16
    assert report.widths_after["4"] < 12
    assert next(g for g in report.groups if "0" in g.producers).left_alone == "0 is ignored"
    by_type = ChannelOptions(ignore=[nn.Linear])
    assert prune_channels(module, x, magnitude(module), sparsity=0.1, options=by_type).widths_after["8"] == 16


def test_groups_name_what_is_coupled():
    module, x = make("resnet")
    groups = channel_groups(module, x)
    assert [group.producers for group in groups] == [
        ("0", "1.conv2"), ("1.conv1",), ("2.conv1",), ("2.conv2", "2.shortcut"), ("6",),
    ]  # fmt: skip
    assert set(groups[0].unit_of) == {
        Side("0", "out"), Side("1.conv1", "in"), Side("1.conv2", "out"), Side("1.norm2", "out"),
        Side("2.conv1", "in"), Side("2.shortcut", "in"),
    }  # fmt: skip
    assert groups[-1].protected == ("6 makes the output",) * 4


@pytest.mark.parametrize(
    ("options", "sparsity", "message"),
    [
        ({}, 1.0, r"sparsity must lie in \[0, 1\); got 1.0"),
        ({"floor": 0.9}, 0.5, r"sparsity 0.5 of channels cannot be reached: at most 0\.\d+ can go.*lower the floor"),
        ({"round_to": 64}, 0.5, r"at most 0 can go .*; round_to 64 leaves layers of at most 64 channels as they are"),
        ({"ignore": ["*"]}, 0.5, "no channel of the network can be removed: 0: 0 is ignored"),
        ({"ignore": ["conv9"]}, 0.5, "'conv9' matches no layer"),
    ],
)
def test_impossible_requests_are_refused(options, sparsity, message):
    module, x = make("vgg")
    with pytest.raises(InputError, match=message):
        prune_channels(module, x, magnitude(module), sparsity=sparsity, options=ChannelOptions(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "flops"}, "measure must be one of channels, parameters, multiply_adds, bytes; got 'flops'"),
        ({"reduce": "max"}, "reduce must be one of sum, mean; got 'max'"),
        ({"normalise": "gaussian"}, "normalise must be one of mean, none; got 'gaussian'"),
        ({"round_to": 0}, "round_to must be at least 1; got 0"),
        ({"floor": 1.5}, r"must lie in \[0, 1\]; got 1.5"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ChannelOptions(**options)


def test_an_unknown_scope_or_a_missing_saliency_is_refused():
    module, x = make("vgg")
    with pytest.raises(InputError, match="scope must be one of global, layer, block; got 'erk'"):
        prune_channels(module, x, magnitude(module), sparsity=0.5, scope="erk")
    with pytest.raises(InputError, match="no weight of the group of 0 has a saliency"):
        prune_channels(module, x, {}, sparsity=0.5)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_families_that_cannot_be_cut_everywhere_are_refused_or_left_alone_in_part(name):
    module, x = make(name)
    with pytest.raises(UnsupportedLayerError, match=r"to leave its group( \(and 2 more groups\))? alone, ignore"):
        prune_channels(module, x, magnitude(module), sparsity=0.4)
    report = prune_channels(module, x, magnitude(module), sparsity=0.05, options=KEEP)
    assert report.proof < 1e-5
    assert report.after.parameters < report.before.parameters
    assert any(group.left_alone for group in report.groups if "head" not in group.producers)
