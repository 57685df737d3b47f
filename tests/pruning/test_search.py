"""Learned masks: exact sparsity, frozen weights, and better than where they started."""

import math

import pytest
import torch
from families import make
from torch import nn
from torch.nn import functional

from sparsense.errors import InputError
from sparsense.pruning.search import MaskSearch, edge_popup_scores, fan_in, hydra_scores
from sparsense.recording.layers import Layout, prunable_weights


@pytest.mark.parametrize("init", ["hydra", "edge_popup"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_forward_pass_is_that_of_the_masked_network(init, scope):
    module, x = make("vgg")
    search = MaskSearch(module, sparsity=0.6, init=init, scope=scope).eval()
    masked, mask = search.result()
    assert mask.size - mask.kept == round(0.6 * mask.size)
    torch.testing.assert_close(search(x), masked(x))
    assert sum(int((w == 0).sum()) for n, w in prunable_weights(masked).items() if n in mask.keep) == round(
        0.6 * mask.size
    )


def test_scores_get_the_straight_through_gradient():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2))
    search, x = MaskSearch(module, sparsity=0.5), torch.randn(5, 4)
    search(x).square().sum().backward()
    masked, _ = search.result()
    masked.requires_grad_(True)
    masked(x).square().sum().backward()
    torch.testing.assert_close(search.scores[0].grad, module[0].weight.detach() * masked[0].weight.grad)
    assert [n for n, p in search.named_parameters() if p.requires_grad] == ["scores.0"]


def test_scores_start_as_published():
    weight = torch.tensor([[3.0, -6.0], [0.0, 1.5]])
    expected = torch.tensor([[0.5, -1.0], [0.0, 0.25]]) * math.sqrt(3)
    torch.testing.assert_close(hydra_scores(weight, Layout()), expected)
    big = torch.zeros(400, 50)
    draw = edge_popup_scores(big, Layout(), torch.Generator().manual_seed(0))
    assert float(draw.std()) == pytest.approx(math.sqrt(2 / 50), rel=0.02)
    assert fan_in(torch.zeros(6, 4, 3, 3), Layout(transposed=True, groups=2)) == 3 * 9


def test_search_finds_a_subnetwork_that_does_better_than_its_start():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 100), nn.ReLU(), nn.Linear(100, 2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    search = MaskSearch(module, sparsity=0.5, init="edge_popup", seed=1)
    x = torch.randn(256, 6)
    y = (x[:, 0] + x[:, 1] > 0).long()
    first = float((search(x).argmax(1) == y).double().mean())
    optimizer = torch.optim.Adam(search.scores.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        functional.cross_entropy(search(x), y).backward()
        optimizer.step()
    masked, mask = search.result()
    assert float((masked(x).argmax(1) == y).double().mean()) > max(0.85, first + 0.2)
    assert mask.sparsity == 0.5
    kept = mask.keep["0.weight"]
    assert torch.equal(masked[0].weight[kept], before["0.weight"][kept])  # weights themselves were not trained
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_bad_searches_are_refused():
    module, _ = make("vgg")
    with pytest.raises(InputError, match="init must be one of hydra, edge_popup, magnitude; got 'zeros'"):
        MaskSearch(module, sparsity=0.5, init="zeros")
    with pytest.raises(InputError, match="nothing can be pruned"):
        MaskSearch(nn.Linear(2, 2), sparsity=0.5)
    with pytest.raises(InputError, match="sparsity must lie"):
        MaskSearch(module, sparsity=1.0)


def test_a_search_from_magnitude_begins_at_the_largest_weights_of_scaled_layers():
    module, _ = make("vgg")
    search = MaskSearch(module, sparsity=0.6, init="magnitude", scope="layer")
    weights = prunable_weights(module)
    for name, keep in search.mask().keep.items():
        size = weights[name].abs()
        assert float(size[keep].min()) >= float(size[~keep].max())
