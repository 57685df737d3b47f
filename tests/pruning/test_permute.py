"""Another order of channels keeps more under a pattern, and computes the same."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from families import make
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparsense.pruning.patterns import select_n_of_m
from sparsense.pruning.permute import better_order, permute_for_pattern
from sparsense.pruning.weights import unprotected
from sparsense.recording.layers import layouts, prunable_weights


def kept(matrix, n, m):
    return float(matrix.reshape(len(matrix), -1, m).topk(n, dim=-1).values.sum())


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([(1, 2), (2, 4), (1, 4)]), st.integers(1, 3))
def test_an_order_is_a_permutation_that_keeps_at_least_as_much(seed, pattern, runs):
    n, m = pattern
    matrix = torch.rand(5, runs * m, generator=torch.Generator().manual_seed(seed)).double() ** 3
    order = better_order(matrix, n, m)
    assert sorted(order.tolist()) == list(range(runs * m))
    assert kept(matrix[:, order], n, m) >= kept(matrix, n, m) * (1 - 1e-12)


def test_it_finds_what_trying_all_orders_finds():
    gains = []
    for seed in range(5):
        matrix = torch.rand(4, 6, generator=torch.Generator().manual_seed(seed)).double()
        best = max(kept(matrix[:, list(order)], 1, 2) for order in permutations(range(6)))
        found = kept(matrix[:, better_order(matrix, 1, 2)], 1, 2)
        assert found >= 0.97 * best
        gains.append(found / kept(matrix, 1, 2))
    assert max(gains) > 1.05


def test_no_try_changes_nothing():
    assert better_order(torch.rand(3, 8), 2, 4, tries=0).tolist() == list(range(8))


@pytest.mark.parametrize("family", ["vgg", "resnet", "mobilenet_v2"])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2)])
def test_a_network_computes_the_same_and_keeps_more(family, n, m):
    module, x = make(family)
    weights = {
        name: weight.detach().abs() for name, weight in unprotected(module, prunable_weights(module)).items()
        if not (weight.shape[1] % m)
    }  # fmt: skip
    found = permute_for_pattern(module, x, weights, n=n, m=m)
    assert found.groups
    torch.testing.assert_close(found.module(x), module(x), rtol=1e-4, atol=1e-5)
    again = {name: weight.detach().abs() for name, weight in prunable_weights(found.module).items() if name in weights}
    for values, share in ((weights, found.kept[0]), (again, found.kept[1])):
        mask = select_n_of_m(values, n=n, m=m, layouts=layouts(module))
        whole = sum(float(v.sum()) for v in values.values())
        assert share == pytest.approx(sum(float(v[mask.keep[k]].sum()) for k, v in values.items()) / whole, rel=1e-5)
    assert found.kept[1] > found.kept[0] * 1.001
    assert {k: sorted(v.flatten().tolist()) for k, v in again.items()} == {
        k: sorted(v.flatten().tolist()) for k, v in weights.items()
    }


def test_channels_whose_order_shows_stay():
    """The hidden layer is also an output: another order would be seen."""

    class Shown(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            hidden = self.first(x)
            return torch.cat([hidden, self.second(hidden)], 1)

    torch.manual_seed(0)
    module, x = Shown().eval(), torch.randn(2, 8)
    found = permute_for_pattern(module, x, {"second.weight": module.second.weight.detach().abs()}, n=2, m=4)
    assert found.groups == ()
    assert torch.equal(found.module(x), module(x))
