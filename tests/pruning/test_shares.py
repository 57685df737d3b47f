"""Shares of groups and blocks: by pattern, by block, by what a sensitivity analysis allows."""

import families
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from sparsense.criteria import CRITERIA
from sparsense.errors import InputError, UnsupportedLayerError
from sparsense.pruning.analysis import Curve, channel_curves, equal_harm, weight_curves
from sparsense.pruning.channels import channel_groups, prune_channel_shares, prune_channels
from sparsense.pruning.grouping import left_alone
from sparsense.pruning.plan import ChannelOptions, UnreachableError
from sparsense.pruning.select import select, select_shares
from sparsense.pruning.shares import shares_by_pattern, smallest
from sparsense.pruning.weights import unprotected
from sparsense.recording.layers import prunable_weights


def magnitude(module):
    return CRITERIA["magnitude"](prunable_weights(module))


class Stages(nn.Module):
    """Two blocks of two convolutions each; the second block's weights are a hundred times larger."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        self.head = nn.Linear(8, 3)
        for parameter in self.second.parameters():
            parameter.data *= 100

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean((2, 3)))


IMAGE = torch.randn(2, 3, 4, 4)


def test_weights_of_a_block_compete_and_every_block_gives_the_same_share():
    saliency = unprotected(Stages(), magnitude(Stages()))
    mask = select(saliency, sparsity=0.5, scope="block")
    sizes = {"first": 24 + 64, "second": 64 + 64}
    for block, size in sizes.items():
        removed = sum(int((~keep).sum()) for name, keep in mask.keep.items() if name.startswith(block))
        assert removed == size / 2
        values = torch.cat([saliency[name].flatten() for name in mask.keep if name.startswith(block)])
        kept = torch.cat([keep.flatten() for name, keep in mask.keep.items() if name.startswith(block)])
        assert values[kept].min() >= values[~kept].max()


def test_channels_of_a_block_compete_and_every_block_gives_the_same_share():
    module = Stages().eval()
    options = ChannelOptions(normalise="none", count="producers")
    report = prune_channels(module, IMAGE, magnitude(module), sparsity=16 / 35, scope="block", options=options)
    removed = {name: 8 - width for name, width in report.widths_after.items()}
    assert removed["first.0"] + removed["first.2"] == removed["second.0"] + removed["second.2"] == 8
    together = prune_channels(module, IMAGE, magnitude(module), sparsity=0.4, scope="global", options=options)
    assert together.widths_after["second.0"] == together.widths_after["second.2"] == 8


@pytest.mark.parametrize("name", ["resnet", "densenet", "mobilenet_v2"])
def test_channel_shares_are_taken_by_pattern_and_nothing_else_goes(name):
    module, x = families.make(name)
    free = [group for group in channel_groups(module, x) if not left_alone(group)]
    layer = free[-1].producers[0]
    report = prune_channel_shares(module, x, magnitude(module), {layer: 0.5})
    for group in report.groups:
        went = 1 - group.width_after / group.width_before
        assert went == pytest.approx(0.5 if layer in group.producers else 0, abs=0.1)
    assert report.proof <= 1e-5


def test_the_last_pattern_counts_and_unknown_patterns_and_shares_are_refused():
    module = Stages().eval()
    report = prune_channel_shares(module, IMAGE, magnitude(module), {"*": 0.25, "second.*": 0.5})
    assert report.widths_after == {"first.0": 6, "first.2": 6, "second.0": 4, "second.2": 4, "head": 3}
    assert shares_by_pattern({"a*": 0.1}, [("b", "a1"), ("c",)]) == {"b": 0.1}
    with pytest.raises(InputError, match=r"ratios: 'thrid.\*' fits no layer that can be pruned; these can: first.0"):
        prune_channel_shares(module, IMAGE, magnitude(module), {"thrid.*": 0.25})
    with pytest.raises(InputError, match=r"ratios must lie in \[0, 1\); got {'head': 1.0}"):
        prune_channel_shares(module, IMAGE, magnitude(module), {"head": 1.0})


def test_weight_shares_are_exact_and_leave_one():
    saliency = {"a": torch.arange(10.0), "b": torch.arange(4.0)}
    mask = select_shares(saliency, {"a": 0.3, "b": 0.99})
    assert mask.keep["a"].tolist() == [False] * 3 + [True] * 7
    assert mask.keep["b"].tolist() == [False, False, False, True]


def test_more_than_can_go_names_the_limit():
    module = Stages().eval()
    with pytest.raises(UnreachableError) as error:
        prune_channels(module, IMAGE, magnitude(module), sparsity=0.99, options=ChannelOptions(floor=0.5))
    assert error.value.limit == pytest.approx(16 / 35)


@given(st.floats(0.01, 0.98), st.floats(0.5, 1.0))
def test_bisection_finds_the_smallest_amount_below_what_can_be_had(target, limit):
    found = smallest(lambda amount: None if amount > limit else amount >= target, resolution=1e-3)
    if target <= limit - 1e-3:
        assert found is not None
        assert target <= found <= target + 1e-3
    elif target > limit:
        assert found is None


# The analysis


def evaluate(x, y):
    @torch.no_grad()
    def judged(module):
        outputs = module(x)
        return float(functional.cross_entropy(outputs, y)), float((outputs.argmax(1) == y).double().mean())

    return judged


def test_curves_are_those_of_a_real_cut():
    module, x = families.make("resnet")
    judge = evaluate(torch.randn(20, *x.shape[1:]), torch.arange(20) % 4)
    curves = list(channel_curves(module, x, magnitude(module), judge, options=ChannelOptions(), ratios=(0.25, 0.5)))
    free = [group for group in channel_groups(module, x) if not left_alone(group)]
    assert [(c.name, c.layers, c.size) for c in curves] == [(g.name, g.producers, g.units) for g in free]
    for curve in curves:
        report = prune_channel_shares(module, x, magnitude(module), {curve.name: 0.5})
        loss, accuracy = judge(report.module)
        assert (curve.loss[1], curve.accuracy[1]) == pytest.approx((loss, accuracy), rel=1e-5)


def test_curves_of_weights_mask_one_layer_at_a_time_and_known_ones_are_not_measured_again():
    module = Stages().eval()
    saliency = unprotected(module, magnitude(module))
    seen = []
    judge = evaluate(IMAGE, torch.tensor([0, 1]))
    before = {name: weight.clone() for name, weight in prunable_weights(module).items()}

    def spy(twin):
        seen.append([name for name, weight in prunable_weights(twin).items() if not torch.equal(weight, before[name])])
        return judge(twin)

    first, *rest = weight_curves(module, saliency, spy, ratios=(0.5,))
    assert seen == [[name] for name in saliency]
    seen.clear()
    again = list(weight_curves(module, saliency, spy, ratios=(0.5,), known={first.name: first}))
    assert (again, len(seen)) == ([first, *rest], len(rest))


def test_bad_ratios_are_refused():
    with pytest.raises(InputError, match=r"must grow and lie in \(0, 1\); got \[0.5, 0.5\]"):
        list(weight_curves(Stages(), {}, evaluate(IMAGE, None), ratios=(0.5, 0.5)))


curves = st.lists(st.lists(st.floats(-1, 5), min_size=3, max_size=3), min_size=1, max_size=4).map(
    lambda losses: [Curve(str(i), (str(i),), 10, (0.2, 0.5, 0.9), tuple(loss), None) for i, loss in enumerate(losses)]
)


@given(curves, st.floats(0, 1), st.floats(0, 1))
def test_ratios_of_equal_harm_never_fall_and_cost_no_more_than_allowed(curves, one, other):
    shares = equal_harm(curves, 0.0)
    low, high = shares(min(one, other)), shares(max(one, other))
    assert all(low[name] <= high[name] for name in low)
    assert all(0 <= ratio <= 0.9 for ratio in high.values())
    assert shares(1.0) == {curve.name: 0.9 for curve in curves}


def test_delicate_layers_lose_less():
    robust = Curve("robust", ("robust",), 10, (0.3, 0.6, 0.9), (1.0, 1.1, 1.2), None)
    delicate = Curve("delicate", ("delicate",), 10, (0.3, 0.6, 0.9), (1.5, 4.0, 9.0), None)
    shares = equal_harm([robust, delicate], 1.0)
    assert all(shares(a)["robust"] >= shares(a)["delicate"] for a in (0.1, 0.3, 0.5, 0.9))
    assert shares(0.4)["delicate"] < 0.3 < shares(0.4)["robust"]


def test_groups_that_only_a_trial_shows_to_be_stuck_have_no_curve():
    module, x = families.make("transformer_fused")

    def curves(unsupported):
        options = ChannelOptions(unsupported=unsupported)
        return list(channel_curves(module, x, magnitude(module), lambda _: (0.0, None), options=options, ratios=(0.5,)))

    assert "up" in [curve.name for curve in curves("keep")]
    assert "attention.qkv" not in [curve.name for curve in curves("keep")]
    with pytest.raises(UnsupportedLayerError, match=r"to leave its group alone, ignore 'attention\.qkv'"):
        curves("raise")
