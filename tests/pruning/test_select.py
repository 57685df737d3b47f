"""Selection: exact counts, floors, ties and patterns, against rules and brute force."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsense.errors import InputError
from sparsense.pruning.mask import Mask
from sparsense.pruning.patterns import follows_n_of_m, select_blocks, select_n_of_m
from sparsense.pruning.select import SCOPES, among_least, erk_counts, select
from sparsense.recording.layers import Layout

SHAPES = {"conv": (6, 4, 3, 3), "wide": (20, 30), "small": (3, 5)}


def saliency(shapes=SHAPES, seed=0, coarse=False):
    generator = torch.Generator().manual_seed(seed)
    draw = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    return {name: (values * 3).floor() if coarse else values for name, values in draw.items()}


shapes_drawn = st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(2, 7), st.integers(2, 7)), min_size=1)


@settings(deadline=None, max_examples=60)
@given(shapes_drawn, st.floats(0, 0.85), st.sampled_from(SCOPES), st.integers(0, 99), st.booleans())
def test_exactly_the_asked_number_goes_and_no_layer_is_emptied(shapes, sparsity, scope, seed, coarse):
    values = saliency(shapes, seed, coarse)
    total = sum(math.prod(shape) for shape in shapes.values())
    if total - round(sparsity * total) < len(shapes):
        with pytest.raises(InputError):
            select(values, sparsity=sparsity, scope=scope, floor=0)
        return
    mask = select(values, sparsity=sparsity, scope=scope, floor=0)
    assert mask.size - mask.kept == round(sparsity * total)
    assert all(keep.any() and keep.shape == values[name].shape for name, keep in mask.keep.items())
    again = select(values, sparsity=sparsity, scope=scope, floor=0)
    assert all(torch.equal(keep, again.keep[name]) for name, keep in mask.keep.items())


def test_global_keeps_the_most_salient_of_all():
    values = saliency()
    mask = select(values, sparsity=0.7, floor=0)
    ordered = torch.cat([v.flatten() for v in values.values()]).sort().values
    threshold = ordered[round(0.7 * len(ordered))]
    for name, keep in mask.keep.items():
        assert torch.equal(keep, values[name] >= threshold)


@pytest.mark.parametrize("scope", ["layer", "row"])
def test_layer_and_row_compare_only_within(scope):
    values = saliency()
    mask = select(values, sparsity=0.5, scope=scope)
    for name, keep in mask.keep.items():
        rows = values[name].flatten(1) if scope == "row" else values[name].reshape(1, -1)
        kept = keep.flatten(1) if scope == "row" else keep.reshape(1, -1)
        counts = kept.sum(1)
        assert counts.max() - counts.min() <= 1
        assert abs(int((~keep).sum()) - 0.5 * keep.numel()) <= 1
        for row, k in zip(rows, kept, strict=True):
            assert row[k].min() >= row[~k].max()


def test_rows_of_transposed_convolutions_are_output_channels():
    values = {"up": torch.rand(6, 4, 2, generator=torch.Generator().manual_seed(1))}
    layout = {"up": Layout(transposed=True, groups=3)}
    keep = select(values, sparsity=0.5, scope="row", layouts=layout).keep["up"]
    per_channel = keep.reshape(3, 2, 4, 2).sum((1, 3))
    assert (per_channel == 2).all()


def test_a_floor_keeps_a_layer_that_magnitude_would_empty():
    values = {"weak": torch.full((10, 10), 1e-6), "strong": torch.rand(30, 30) + 1}
    values["weak"][3, 4] = 1e-3
    mask = select(values, sparsity=0.9)
    assert int(mask.keep["weak"].sum()) == 1
    assert mask.keep["weak"][3, 4]
    assert int(select(values, sparsity=0.9, floor=0.05).keep["weak"].sum()) == 5
    assert round(mask.sparsity, 6) == 0.9


def test_equal_saliencies_go_in_order():
    keep = select({"a": torch.zeros(4), "b": torch.zeros(4)}, sparsity=0.5, floor=0).keep
    # Each layer keeps its first weight as its floor; of the others the first ones go.
    assert keep["a"].tolist() == [True, False, False, False]
    assert keep["b"].tolist() == [True, False, True, True]


@pytest.mark.parametrize("scope", SCOPES)
def test_what_is_gone_goes_first_however_salient(scope):
    values = saliency()
    gone = Mask({name: v < v.quantile(0.9) for name, v in values.items()})  # the most salient tenth
    mask = select(values, sparsity=0.5, scope=scope, floor=0, gone=gone)
    assert all(not (mask.keep[name] & ~gone.keep[name]).any() for name in values if scope != "erk" or name != "small")
    assert mask.size - mask.kept == round(0.5 * mask.size)


def test_erk_gives_the_density_of_the_formula():
    counts = erk_counts({"a": (64, 64, 3, 3), "b": (128, 64, 3, 3), "c": (10, 20)}, 90_000)
    kept = {"a": 36864 - counts["a"], "b": 73728 - counts["b"]}
    assert counts["c"] == 0  # its raw density is above 1
    assert kept["a"] / kept["b"] == pytest.approx((64 + 64 + 6) / (128 + 64 + 6), rel=1e-3)
    assert sum(counts.values()) == 90_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity must lie in \[0, 1\); got 1.0"),
        ({"sparsity": -0.1}, r"sparsity must lie in \[0, 1\); got -0.1"),
        ({"sparsity": float("nan")}, r"sparsity must lie"),
        ({"sparsity": 0.5, "scope": "local"}, "scope must be one of global, layer, block, row, erk; got 'local'"),
        ({"sparsity": 0.5, "floor": 2.0}, r"floor .* must lie in \[0, 1\]; got 2.0"),
        ({"sparsity": 0.999}, "leaves 1 of 831 weights, fewer than the 3 that the floor keeps in 3 layers"),
        ({"sparsity": 0.999, "scope": "layer"}, "would empty a layer"),
        ({"sparsity": 0.5, "floor": 0.8}, "fewer than the"),
    ],
)
def test_impossible_targets_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        select(saliency(), **options)


def test_bad_saliency_is_refused():
    with pytest.raises(InputError, match="saliency of 'w' holds NaN or infinity"):
        select({"w": torch.tensor([1.0, math.nan])}, sparsity=0.5)
    with pytest.raises(InputError, match=r"saliency of 'w' is negative somewhere \(-1\)"):
        select({"w": torch.tensor([1.0, -1.0])}, sparsity=0.5)
    with pytest.raises(InputError, match="nothing prunable"):
        select({}, sparsity=0.5)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4), (3, 4), (4, 4)])
def test_n_of_m_equals_enumeration(n, m):
    values = {"conv": torch.rand(3, 8, 2, 2), "linear": torch.rand(5, 16)}
    mask = select_n_of_m(values, n=n, m=m)
    for name, keep in mask.keep.items():
        runs = values[name].movedim(1, -1).reshape(-1, m)
        kept = keep.movedim(1, -1).reshape(-1, m)
        for run, k in zip(runs, kept, strict=True):
            assert set(np.flatnonzero(k)) == set(np.argsort(-run.numpy())[:n])
    assert follows_n_of_m(mask, n=n, m=m)
    assert mask.density == n / m


def test_n_of_m_of_transposed_and_grouped_convolutions_runs_along_inputs():
    values = {"up": torch.rand(8, 3, 2)}
    layouts = {"up": Layout(transposed=True, groups=2)}
    mask = select_n_of_m(values, layouts=layouts)
    assert (mask.keep["up"].reshape(2, 4, 3, 2).sum(1) == 2).all()
    assert follows_n_of_m(mask, n=2, m=4, layouts=layouts)
    assert not follows_n_of_m(Mask({"w": torch.ones(2, 4, dtype=torch.bool)}), n=2, m=4)


def test_patterns_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"multiple of 4 inputs per output channel; 'stem' has 3"):
        select_n_of_m({"stem": torch.rand(8, 3, 3, 3)})
    with pytest.raises(InputError, match="needs 1 <= N <= M; got 5:4"):
        select_n_of_m({"w": torch.rand(2, 4)}, n=5)
    with pytest.raises(InputError, match="at least 1 row and 1 column"):
        select_blocks({"w": torch.rand(2, 4)}, sparsity=0.5, block=(0, 2))


@pytest.mark.parametrize("block", [(2, 2), (4, 1), (1, 8), (3, 5)])
def test_blocks_go_whole_least_mean_first_and_close_to_the_target(block):
    values = {"a": torch.rand(8, 2, 2, 2), "b": torch.rand(7, 9)}
    mask = select_blocks(values, sparsity=0.5, block=block)
    area, gone_means, kept_means = block[0] * block[1], [], []
    for name, keep in mask.keep.items():
        rows, kept = values[name].flatten(1), keep.flatten(1)
        for i in range(0, rows.shape[0], block[0]):
            for j in range(0, rows.shape[1], block[1]):
                part = kept[i : i + block[0], j : j + block[1]]
                assert part.all() or not part.any()
                (kept_means if part.all() else gone_means).append(
                    float(rows[i : i + block[0], j : j + block[1]].mean())
                )
    assert max(gone_means) <= sorted(kept_means)[0] + 1e-6
    target = round(0.5 * mask.size)
    assert target - area < mask.size - mask.kept <= target


def test_masks_combine_and_apply():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    module.requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    left = Mask({"0.weight": torch.tensor([[True, False], [True, True]])})
    right = Mask({"0.weight": torch.tensor([[False, True], [True, True]]), "1.weight": torch.tensor([[True, False]])})
    both = left & right
    assert both.keep["0.weight"].tolist() == [[False, False], [True, True]]
    assert both.layer_sparsity() == {"1.weight": 0.5, "0.weight": 0.5}
    both.apply_(module)
    after = module.state_dict()
    assert torch.equal(after["0.weight"], before["0.weight"] * both.keep["0.weight"])
    assert torch.equal(after["0.bias"], before["0.bias"])
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert torch.equal(Mask.of_zeros({"w": after["0.weight"]}).keep["w"], both.keep["0.weight"])


def test_masks_that_do_not_fit_change_nothing():
    module = nn.Sequential(nn.Linear(2, 2))
    before = module[0].weight.clone()
    fits = torch.zeros(2, 2, dtype=torch.bool)
    with pytest.raises(InputError, match=r"no parameter '9.weight'; it has 0.weight, 0.bias"):
        Mask({"0.weight": fits, "9.weight": fits}).apply_(module)
    with pytest.raises(InputError, match=r"'0.weight' has shape \[2, 2\], its mask \[3\]"):
        Mask({"0.weight": torch.zeros(3, dtype=torch.bool)}).apply_(module)
    assert torch.equal(module[0].weight, before)
    with pytest.raises(InputError, match="those of w are not"):
        Mask({"w": torch.zeros(2)})
    assert Mask({}).density == 1


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.data())
def test_the_least_are_those_that_a_stable_sort_puts_first(numbers, data):
    count = data.draw(st.integers(0, len(numbers)))
    values = torch.tensor(numbers, dtype=torch.float64)
    expected = torch.zeros(len(numbers), dtype=torch.bool)
    expected[values.argsort(stable=True)[:count]] = True
    assert torch.equal(among_least(values, count), expected)
