"""Growing by zero channels keeps outputs; aligning takes what measures fastest."""

from copy import deepcopy

import pytest
import torch
from families import FAMILIES, make
from torch import nn

from sparsense.errors import InputError
from sparsense.pruning.align import align_widths
from sparsense.pruning.channels import channel_groups
from sparsense.pruning.grouping import left_alone, widths
from sparsense.pruning.groups import Side
from sparsense.pruning.grow import grow_, growth_of, why_not_grow
from sparsense.pruning.plan import ChannelOptions

KEEP = ChannelOptions(unsupported="keep")
ROWS = [name for name in FAMILIES if name not in ("mixer", "transformer_fused", "transformer_separate")]


def growable(module, x):
    groups = channel_groups(module, x, KEEP)
    return [g for g in groups if not left_alone(g) and not any(g.protected) and not why_not_grow(module, g)]


@pytest.mark.parametrize("added", [1, 3])
@pytest.mark.parametrize("name", ROWS)
def test_zero_channels_change_widths_but_not_outputs(name, added):
    module, x = make(name)
    for group in growable(module, x):
        twin = deepcopy(module)
        grow_(twin, growth_of(group, added))
        torch.testing.assert_close(twin(x), module(x), rtol=1e-5, atol=1e-6)
        for producer in group.producers:
            per_unit = int((group.unit_of[Side(producer, "out")] == group.units - 1).sum())
            assert widths(twin)[producer] == widths(module)[producer] + added * per_unit
        assert sum(p.numel() for p in twin.parameters()) > sum(p.numel() for p in module.parameters())


def test_new_channels_come_behind_the_last_unit_on_every_side():
    module, x = make("vgg")
    twin = deepcopy(module)
    group = next(g for g in channel_groups(module, x) if g.producers == ("4",))
    grow_(twin, growth_of(group, 2))
    assert torch.equal(twin[4].weight[:12], module[4].weight)
    assert not twin[4].weight[12:].any()
    assert torch.equal(twin[8].weight[:, :48], module[8].weight)
    assert twin[8].weight.shape == (16, 56)


def test_new_channels_of_a_norm_are_neutral():
    module, x = make("resnet")
    grow_(module, growth_of(channel_groups(module, x)[1], 2))
    norm = module[1].norm1
    assert (norm.running_mean[-2:] == 0).all()
    assert (norm.running_var[-2:] == 1).all()  # a variance of 0 would blow up what is trained later
    assert (norm.weight[-2:] == 0).all()


def test_norms_over_channels_are_not_grown():
    module, x = make("convnext")
    assert {why_not_grow(module, g) for g in channel_groups(module, x)} == {"", "norm averages over its channels"}
    module, x = make("transformer")
    assert any("averages over" in why_not_grow(module, g) for g in channel_groups(module, x))


def times(**milliseconds):
    seen = {}

    def measure(networks):
        seen.update(networks)
        return {name: milliseconds[name.split()[0]] for name in networks}

    return measure, seen


@pytest.mark.parametrize("best", ["kept", "padded", "rounded"])
@pytest.mark.parametrize("name", ["densenet", "resnet", "mobilenet_v3", "bottleneck_autoencoder", "unet"])
def test_the_fastest_variant_is_taken(name, best):
    module, x = make(name)
    measure, seen = times(**{"kept": 2.0, "padded": 2.0, "rounded": 2.0, best: 1.0})
    alignment = align_widths(module, x, measure=measure, multiple=5)
    assert alignment.best.split()[0] == best
    assert set(seen) == set(alignment.variants) == {"kept", "padded", "rounded down"}
    torch.testing.assert_close(alignment.variants["padded"].module(x), module(x), rtol=1e-5, atol=1e-6)
    assert alignment.variants["padded"].exact
    assert not alignment.variants["rounded down"].exact
    groups = channel_groups(module, x)
    for variant, ok in (("padded", lambda now, was: now >= was), ("rounded down", lambda now, was: now <= was)):
        for group in groups:
            now, was = alignment.variants[variant].widths[group.name], widths(module)[group.name]
            if any(group.protected):
                assert now == was
            else:
                assert ok(now, was)
                assert now % 5 == 0 or now == was


def test_a_network_that_fits_already_is_kept():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 16, 3))
    measure, _ = times(kept=1.0)
    alignment = align_widths(module, torch.randn(2, 3, 8, 8), measure=measure)
    assert list(alignment.variants) == ["kept"]
    assert alignment.module is not module


def test_exact_alignment_never_changes_outputs():
    module, x = make("resnet")
    measure, _ = times(kept=2.0, padded=3.0, rounded=1.0)
    alignment = align_widths(module, x, measure=measure, multiple=5, exact=True)
    assert alignment.best == "kept"
    with pytest.raises(InputError, match="multiple must be at least 2; got 1"):
        align_widths(module, x, measure=measure, multiple=1)
