"""Pruning in steps."""

import itertools

import pytest
import torch
from families import make
from torch import nn
from torch.nn import functional

from sparsense.errors import InputError
from sparsense.pruning.iterate import Gradual, Scoring, cut_in_steps, mask_in_steps
from sparsense.pruning.schedule import cubic, exponential, linear
from sparsense.recording.layers import prunable_weights
from sparsense.recording.passes import Source


def zeros(module, names):
    return sum(int((weight == 0).sum()) for name, weight in prunable_weights(module).items() if name in names)


@pytest.mark.parametrize("criterion", ["magnitude", "synflow", "crop", "snip"])
@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
def test_masks_only_grow_and_targets_are_exact(criterion, scope):
    module, x = make("vgg")
    seen = []

    def between(network, sparsity):
        seen.append({name: weight != 0 for name, weight in prunable_weights(network).items()})

    scoring = Scoring(criterion, Source(x, torch.tensor([0, 1])))
    mask = mask_in_steps(module, scoring, linear(0.6, 3), scope=scope, between=between)
    assert mask.size - mask.kept == round(0.6 * mask.size) == zeros(module, mask.keep)
    for before, after in itertools.pairwise(seen):
        assert all(not (after[name] & ~before[name]).any() for name in before)
    assert [round(0.2 * (k + 1) * mask.size) for k in range(3)] == [
        sum(int((~kept[name]).sum()) for name in mask.keep) for kept in seen
    ]


def test_synaptic_flow_needs_steps_to_spare_a_layer():
    """One step of synaptic flow empties the wide layer; a hundred steps keep a path through it."""
    torch.manual_seed(0)

    def build():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 10), nn.ReLU(),
                             nn.Linear(10, 2))  # fmt: skip

    scoring = Scoring("synflow", Source(torch.zeros(1, 20)))
    kept = {}
    for steps in (1, 100):
        module = build()
        mask_in_steps(module, scoring, exponential(0.99, steps))
        kept[steps] = float(scoring.of(module)["6.weight"].sum())
    assert kept[100] > 10 * kept[1]


def test_what_is_retrained_between_steps_stays_masked():
    module, _x = make("vgg")

    def between(network, _sparsity):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1.0)

    mask = mask_in_steps(module, Scoring("magnitude"), [0.3, 0.5], between=between)
    assert zeros(module, mask.keep) == round(0.5 * mask.size)


def test_sparsities_that_fall_are_refused():
    module, _ = make("vgg")
    with pytest.raises(InputError, match=r"must not fall and there must be one; got \[0.5, 0.3\]"):
        mask_in_steps(module, Scoring("magnitude"), [0.5, 0.3])
    with pytest.raises(InputError, match="there must be one"):
        mask_in_steps(module, Scoring("magnitude"), [])


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "gate_taylor"])
@pytest.mark.parametrize("name", ["resnet", "densenet"])
def test_channels_go_in_steps_to_the_share_of_the_first_network(name, criterion):
    module, x = make(name)
    before = sum(p.numel() for p in module.parameters())
    seen = []
    reports = cut_in_steps(module, x, Scoring(criterion, Source(x, torch.tensor([0, 1]))), linear(0.4, 4),
                           between=lambda network, share: seen.append((network, share)))  # fmt: skip
    widths = [sum(g.width_after for g in report.groups) for report in reports]
    first = sum(g.width_before for g in reports[0].groups)
    assert widths == sorted(widths, reverse=True)
    assert 0.4 <= 1 - widths[-1] / first < 0.55
    assert seen[-1][1] == pytest.approx(1 - widths[-1] / first)
    assert seen[-1][0] is reports[-1].module
    assert sum(p.numel() for p in module.parameters()) == before
    assert all(report.proof < 1e-5 for report in reports)


def train(module, gradual, steps, seed):
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        x = torch.randn(8, 6)
        functional.cross_entropy(module(x), (x.sum(1) > 0).long()).backward()
        optimizer.step()
        optimizer.zero_grad()
        gradual()


def test_gradual_masks_follow_the_schedule_and_training_keeps_them():
    module, _ = make("mlp")
    gradual = Gradual(module, cubic(0.7, 5), begin=2, every=3)
    counts = []
    for _ in range(20):
        train(module, gradual, 1, seed=len(counts))
        counts.append(zeros(module, ["0.weight", "3.weight"]))
    size = 16 * 6 + 12 * 16
    expected = [0, 0] + [round(s * size) for s in cubic(0.7, 5) for _ in range(3)]
    assert counts == expected + [expected[-1]] * (20 - len(expected))


def test_gradual_pruning_goes_on_after_an_interruption():
    whole, _ = make("mlp")
    halves, _ = make("mlp")
    one = Gradual(whole, linear(0.6, 6))
    train(whole, one, 3, seed=1)
    train(whole, one, 3, seed=2)
    first = Gradual(halves, linear(0.6, 6))
    train(halves, first, 3, seed=1)
    second = Gradual(halves, linear(0.6, 6))
    second.load_state(first.state())
    train(halves, second, 3, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))


class HeadFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.first, self.second = nn.Linear(8, 3), nn.Linear(6, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).relu())


def test_the_output_is_protected_wherever_it_was_registered():
    torch.manual_seed(0)
    module = HeadFirst().eval()
    mask = mask_in_steps(module, Scoring("magnitude", Source(torch.randn(4, 6))), linear(0.5, 2))
    assert set(mask.keep) == {"first.weight", "second.weight"}
    assert zeros(module, ["head.weight"]) == 0
