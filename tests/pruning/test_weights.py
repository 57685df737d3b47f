"""Protection of layers, and masks for whole networks."""

import pytest
import torch
from torch import nn

from sparsense.errors import InputError
from sparsense.pruning.protect import ignored_layers, output_layers
from sparsense.pruning.weights import select_weights, unprotected
from sparsense.recording.layers import prunable_weights


class TwoOutputs(nn.Module):
    """The layer registered last is not an output; there are two outputs."""

    def __init__(self):
        super().__init__()
        self.out_a, self.out_b, self.stem = nn.Linear(4, 2), nn.Conv1d(1, 1, 3), nn.Linear(3, 4)

    def forward(self, x):
        h = self.stem(x).relu()
        return torch.log_softmax(self.out_a(h), 1), {"b": self.out_b(h[:, None]).flatten(1)}


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), nn.Flatten(), nn.Linear(16, 3)
    )


def magnitudes(module):
    return {name: weight.abs() for name, weight in prunable_weights(module).items()}


def test_outputs_are_found_through_what_follows_them():
    module = TwoOutputs()
    assert output_layers(module, torch.rand(2, 3)) == {"out_a", "out_b"}
    module.requires_grad_(False)
    assert output_layers(module, torch.rand(2, 3)) == {"out_a", "out_b"}
    assert output_layers(net(), torch.rand(2, 1, 6, 6)) == {"2"}
    assert module.training


@pytest.mark.parametrize(
    ("ignore", "expected"),
    [
        (["0.*"], {"0.0", "0.1", "0.2"}),
        (["0"], {"0", "0.0", "0.1", "0.2"}),
        (["0.2.weight"], {"0.2"}),
        ([nn.Conv2d], {"0.0", "0.2"}),
        ("2", {"2"}),
        ([nn.Linear, "0.0"], {"2", "0.0"}),
    ],
)
def test_layers_are_ignored_by_pattern_and_type(ignore, expected):
    assert ignored_layers(net(), ignore) == expected


def test_layers_are_ignored_by_module():
    module = net()
    assert ignored_layers(module, [module[0][2]]) == {"0.2"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("0.o", r"'0.o' matches no layer .*did you mean .*'0.0'"),
        (nn.Conv3d, "type Conv3d matches no"),
        (nn.ReLU(), "given ReLU"),
    ],
)
def test_an_entry_that_matches_nothing_is_refused(entry, message):
    with pytest.raises(InputError, match=message):
        ignored_layers(net(), [entry])


def test_the_output_layer_is_protected_and_frozen_weights_are_pruned():
    module = net().requires_grad_(False)
    mask = select_weights(module, magnitudes(module), sparsity=0.5)
    assert set(mask.keep) == {"0.0.weight", "0.2.weight"}
    assert mask.sparsity == 0.5
    exact = unprotected(TwoOutputs(), magnitudes(TwoOutputs()), example_input=torch.rand(2, 3))
    assert set(exact) == {"stem.weight"}
    assert set(unprotected(module, magnitudes(module), protect_output=False)) == set(magnitudes(module))


def test_nothing_to_prune_is_refused():
    module = net()
    with pytest.raises(InputError, match=r"nothing can be pruned: .* all are ignored or belong to the output"):
        select_weights(module, magnitudes(module), sparsity=0.5, ignore=[nn.Conv2d])
    with pytest.raises(InputError, match=r"names 'x.weight', which the network does not have"):
        select_weights(module, {"x.weight": torch.ones(2)}, sparsity=0.5)
    with pytest.raises(InputError, match=r"nothing can be pruned: of the prunable weights \(none\)"):
        select_weights(nn.Sequential(nn.ReLU()), {}, sparsity=0.5)


def test_a_type_may_be_given_by_its_name():
    module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Conv1d(2, 2, 1))
    assert ignored_layers(module, ["Linear"]) == {"0"}
    assert ignored_layers(module, ["_ConvNd"]) == {"2"}
    with pytest.raises(InputError, match="'Module' matches no layer"):
        ignored_layers(module, ["Module"])
