"""Everything that cannot be cut is refused by name, or works: no silent no-op, no late breakage."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune as torch_prune

from sparsense.criteria import CRITERIA
from sparsense.errors import InputError, UnsupportedLayerError
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.plan import ChannelOptions
from sparsense.recording.layers import prunable_weights


class Net(nn.Module):
    """Two convolutions, something in between, a head."""

    def __init__(self, between=None, width=8, after=None):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(width, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        self.between = between or nn.Identity()
        self.after = after or nn.Identity()

    def forward(self, x):
        x = self.second(self.between(self.first(x).relu()))
        return self.head(self.after(x.relu().mean((2, 3))))


class Pad(nn.Module):
    def forward(self, x):
        return functional.pad(x, (0, 0, 0, 0, 2, 2))


class Shuffle(nn.Module):
    def forward(self, x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class SwapHalves(nn.Module):
    def forward(self, x):
        left, right = x.chunk(2, 1)
        return torch.cat([right, left], 1)


class Buffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.rand(8))

    def forward(self, x):
        return x - self.mean


class ChannelMean(nn.Module):
    """Depends on how many channels there are."""

    def forward(self, x):
        return x - x.mean(1, keepdim=True)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.first, self.inner, self.head = nn.Linear(6, 8), kind(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.inner(self.first(x))[0][:, -1])


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.left, self.right = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        h = self.trunk(x).relu()
        return self.left(h) if len(x) < 5 else self.right(h)


class AddsInput(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.second(x + self.first(x)).relu().mean((2, 3)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.bias = nn.Linear(6, 8), nn.Parameter(torch.zeros(6))

    def forward(self, x):
        return functional.linear(self.encode(x).relu(), self.encode.weight.t(), self.bias)


IMAGE = torch.randn(2, 3, 6, 6)


def cut(module, x, **options):
    saliency = CRITERIA["magnitude"](prunable_weights(module))
    return prune_channels(module.eval(), x, saliency, sparsity=0.2, options=ChannelOptions(**options))


@pytest.mark.parametrize(
    ("between", "width", "reason"),
    [
        (Pad(), 12, "differs from masking"),
        (Shuffle(), 8, "forward pass fails there|differs from masking"),
        (SwapHalves(), 8, "coupled to more than that"),
        (nn.ChannelShuffle(4), 8, "divisible by groups|differs from masking"),
        (nn.PixelShuffle(2), 2, "layer 'second' .*coupled to more than that"),
        (nn.PixelUnshuffle(2), 32, "layer 'second' .*forward pass fails there"),
        (ChannelMean(), 8, "differs from masking"),
        (nn.LocalResponseNorm(3, alpha=0.1), 8, "differs from masking"),
        (nn.Softmax(1), 8, "differs from masking"),
    ],
)
def test_operations_across_channels_are_refused(between, width, reason):
    module = Net(between, width)
    with pytest.raises(UnsupportedLayerError, match=f"({reason})" + ".*to leave its group alone, ignore 'first'"):
        cut(module, IMAGE)
    left = cut(module, IMAGE, unsupported="keep")
    assert left.widths_after["first"] == 8
    assert left.widths_after["second"] < 8
    assert cut(module, IMAGE, ignore=["first"]).widths_after == left.widths_after


def test_a_buffer_per_channel_is_refused_with_the_place():
    with pytest.raises(
        UnsupportedLayerError, match=r"layer 'after' \(Buffer\).*forward pass fails there.*ignore 'second'"
    ):
        cut(Net(after=Buffer()), IMAGE)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_refused(kind):
    x = torch.randn(2, 5, 6)
    with pytest.raises(UnsupportedLayerError, match=r"layer 'inner' .*recurrent layers cannot be traced"):
        cut(Recurrent(kind), x)


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
def test_computed_weights_are_refused(norm):
    module = Net()
    getattr(nn.utils.parametrizations, norm)(module.second)
    with pytest.raises(UnsupportedLayerError, match=r"layer 'second' .*parametrisation"):
        prune_channels(module, IMAGE, {}, sparsity=0.2)


def test_old_weight_norm_is_refused():
    module = Net()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(module.second)
    with pytest.raises(UnsupportedLayerError, match=r"layer 'second' .*weight or spectral norm"):
        prune_channels(module, IMAGE, {}, sparsity=0.2)


def test_masks_of_torch_are_refused():
    module = Net()
    torch_prune.random_unstructured(module.first, "weight", 0.5)
    with pytest.raises(UnsupportedLayerError, match=r"layer 'first' .*prune.remove"):
        prune_channels(module, IMAGE, {}, sparsity=0.2)


def test_lazy_layers_are_refused():
    with pytest.raises(UnsupportedLayerError, match=r"layer '0' .*lazy"):
        prune_channels(nn.Sequential(nn.LazyLinear(4)), torch.rand(2, 3), {}, sparsity=0.2)


def test_a_branch_that_the_example_misses_is_refused():
    x = torch.randn(2, 6)
    with pytest.raises(UnsupportedLayerError, match=r"layer 'right' .*example input does not reach it"):
        cut(Branch(), x)


def test_channels_that_meet_the_input_stay():
    report = cut(AddsInput(), IMAGE)
    assert report.widths_after["first"] == 3
    assert next(g for g in report.groups if g.producers == ("first",)).left_alone == "it is coupled to the input"


def test_a_weight_used_behind_its_layer_makes_that_layer_the_output():
    with pytest.raises(InputError, match=r"no channel .* can be removed: encode: encode makes the output"):
        cut(Tied(), torch.randn(2, 6))


def test_no_grad_is_no_obstacle_and_inference_mode_is_refused():
    with torch.no_grad():
        assert cut(Net(), IMAGE).proof < 1e-5
    with torch.inference_mode(), pytest.raises(InputError, match=r"torch.inference_mode\(\) forbids"):
        cut(Net(), IMAGE)
