"""Growing by zero channels keeps outputs; aligning takes what measures fastest."""

from copy import deepcopy

import pytest
import torch
from families import FAMILIES, make
from torch import nn

from sparsense.errors import InputError
from sparsense.pruning.align import align_each_group, align_widths
from sparsense.pruning.aligner import Aligner, Way
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


@pytest.mark.parametrize("align", [align_widths, align_each_group])
@pytest.mark.parametrize("name", ["mixer", "transformer_fused", "transformer_separate"])
def test_groups_that_only_a_trial_shows_to_be_stuck_keep_their_widths(name, align):
    module, x = make(name)

    def measure(modules):  # the wider the faster
        return {key: 1 / sum(widths(network).values()) for key, network in modules.items()}

    found = align(module, x, measure=measure, multiple=16, exact=True)
    assert not set(found.groups) & {"attention.qkv", "attention.q", "token_down"}
    torch.testing.assert_close(found.module(x), module(x), rtol=1e-5, atol=1e-6)
    assert widths(found.module)["up"] == 16
    assert found.best != "kept"


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


@pytest.mark.parametrize("name", ["densenet", "resnet", "mobilenet_v3", "unet"])
def test_each_group_takes_its_own_fastest_way(name):
    """The measure likes multiples of 5 in even groups and none in odd ones: only a mixture is best."""
    module, x = make(name)
    free = [g.name for g in channel_groups(module, x) if not any(g.protected) and g.units % 5]
    likes = {group: index % 2 for index, group in enumerate(sorted(free))}

    def measure(networks):
        return {key: 10.0 + sum(price(group, widths(network)[group]) for group in free)
                for key, network in networks.items()}  # fmt: skip

    def price(group, width):
        return float(width != widths(module)[group]) if likes[group] else float(width <= widths(module)[group])

    alignment = align_each_group(module, x, measure=measure, multiple=5)
    chosen = alignment.variants[alignment.best]
    assert alignment.best == "each group"
    assert chosen.ways == {group: Way("padded", 5) for group in free if not likes[group]}
    assert chosen.milliseconds == min(v.milliseconds for v in alignment.variants.values()) == 10.0
    assert chosen.exact
    torch.testing.assert_close(chosen.module(x), module(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["densenet", "unet"])
def test_rounding_and_padding_mix_around_a_concatenation(name):
    module, x = make(name)
    aligner = Aligner(module, x, lambda networks: dict.fromkeys(networks, 1.0))
    possible = {group.name: aligner.ways_of(group, (3, 5), exact=False) for group in aligner.groups}
    ways = {group: choice[index % len(choice)] for index, (group, choice) in enumerate(possible.items()) if choice}
    assert {way.what for way in ways.values()} == {"padded", "rounded down"}
    mixed = aligner.measured({"mixed": ways}).variants["mixed"]
    assert not mixed.exact
    assert mixed.error < 1e-6
    for group, way in ways.items():
        now, was = mixed.widths[group], widths(module)[group]
        assert (now > was) if way.what == "padded" else (now < was)


def test_several_multiples_are_all_tried():
    module, x = make("resnet")
    seen = []

    def measure(networks):
        seen.extend(networks)
        return {name: float(name != "padded to multiples of 3") for name in networks}

    alignment = align_widths(module, x, measure=measure, multiple=(3, 5))
    assert alignment.best == "padded to multiples of 3"
    rest = [f"{what} to multiples of {multiple}" for multiple in (3, 5) for what in ("padded", "rounded down")]
    assert seen == ["kept", *rest]
