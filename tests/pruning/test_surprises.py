"""What commonly goes wrong without a word: here it works, or is refused with its reason."""

import gc
import weakref
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from families import BasicBlock
from own_families import Swin
from torch import nn
from torch.nn import functional

from sparsense.criteria import CRITERIA
from sparsense.errors import InputError, UnsupportedLayerError
from sparsense.networks import load_network
from sparsense.pruning import trace
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.groups import Side
from sparsense.pruning.plan import ChannelOptions
from sparsense.recording.layers import prunable_weights

IMAGE = torch.randn(2, 3, 8, 8)
KEEP = {"unsupported": "keep"}


def cut(module, x, sparsity=0.5, **options):
    saliency = CRITERIA["magnitude"](prunable_weights(module))
    return prune_channels(module, x, saliency, sparsity=sparsity, options=ChannelOptions(**options))


class Chain(nn.Module):
    """Two layers, and a function of the output."""

    def __init__(self, output=lambda y: y):
        super().__init__()
        self.first, self.last, self.output = nn.Linear(6, 10), nn.Linear(10, 5), output

    def forward(self, x):
        return self.output(self.last(self.first(x).relu()))


ROWS = torch.randn(3, 6)


def test_the_output_keeps_its_classes_and_the_input_its_features():
    report = cut(Chain(), ROWS, sparsity=1 / 3)
    assert report.widths_after == {"first": 5, "last": 5}
    assert report.module(ROWS).shape == (3, 5)


def test_a_sparsity_is_what_goes_and_not_what_stays():
    assert cut(Chain(), ROWS, sparsity=2 / 15).widths_after["first"] == 8


def test_no_layer_is_left_with_one_channel_when_others_have_more_to_give():
    module = nn.Sequential(nn.Conv2d(3, 40, 1), nn.ReLU(), nn.Conv2d(40, 40, 1), nn.ReLU(), nn.Conv2d(40, 2, 1))
    module[0].weight.data *= 1e-3  # a global threshold alone would empty it
    report = cut(module, IMAGE, sparsity=0.7, normalise="none", count="producers", floor=0.2)
    assert report.widths_after["0"] == 8


def test_nothing_of_a_pruned_network_is_kept_anywhere():
    gone = []
    for _ in range(2):
        module = Chain()
        report = cut(module, ROWS)
        gone += [weakref.ref(module), weakref.ref(report.module)]
        del module, report
    gc.collect()
    assert [reference() for reference in gone] == [None] * 4


def test_a_frozen_backbone_is_cut_and_stays_frozen_while_its_head_learns_on():
    module = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 4))
    module[:4].requires_grad_(False)
    report = cut(module, ROWS)
    assert report.widths_after["0"] < 10
    flags = {name: parameter.requires_grad for name, parameter in report.module.named_parameters()}
    assert flags == {name: name.startswith("4") for name in flags}


def test_every_submodule_keeps_its_own_mode():
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout(), nn.Conv2d(8, 2, 1))
    module[1].eval()
    report = cut(module, IMAGE)
    assert [part.training for part in module] == [part.training for part in report.module] == [True, False, True, True]
    assert module.training
    assert report.module.training


# Outputs and inputs


@dataclass
class Answer:
    logits: torch.Tensor


@pytest.mark.parametrize(
    "output",
    [lambda y: {"logits": y, "loss": None}, lambda y: (y, [y.sum(1)]), lambda y: (y, "a note", 3)],
    ids=["dictionary", "nested", "with other things"],
)
def test_outputs_of_other_kinds_are_followed(output):
    report = cut(Chain(output), ROWS, sparsity=1 / 3)
    assert report.widths_after == {"first": 5, "last": 5}


@pytest.mark.parametrize("output", [Answer, lambda y: y.tolist(), lambda y: None], ids=["object", "numbers", "nothing"])
def test_outputs_without_tensors_are_refused(output):
    with pytest.raises(UnsupportedLayerError, match="returns no tensor that can be followed"):
        cut(Chain(output), ROWS)


class TakesDictionary(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Chain()

    def forward(self, inputs):
        return self.inner(inputs["x"])


def test_inputs_in_a_dictionary_are_refused_with_the_way_out():
    with pytest.raises(
        InputError, match=r"example_input .* tensor or a tuple of tensors; got dict.*forward takes tensors"
    ):
        cut(TakesDictionary(), {"x": ROWS})


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.last = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x, y):
        return self.last((self.left(x) + self.right(y)).relu())


def test_several_inputs_are_a_tuple():
    report = cut(TwoInputs(), (ROWS, torch.randn(3, 4)))
    assert report.widths_after == {"left": 4, "right": 4, "last": 3} or report.reached >= 0.5


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.hidden, self.last = nn.Embedding(20, 12), nn.Linear(12, 10), nn.Linear(10, 3)

    def forward(self, tokens):
        return self.last(self.hidden(self.words(tokens)).relu().mean(1))


def test_inputs_of_whole_numbers_stay_whole():
    tokens = torch.randint(0, 20, (2, 7))
    report = cut(Words(), tokens, sparsity=0.3)
    assert report.module(tokens).shape == (2, 3)
    assert report.proof <= 1e-5


# Couplings that are easily missed


class Tokens(nn.Module):
    """[N, T, C] flattened to [N, T * C]: a channel lies at every C-th place, not in one block."""

    def __init__(self):
        super().__init__()
        self.embed, self.last = nn.Linear(6, 8), nn.Linear(32, 3)

    def forward(self, x):
        return self.last(self.embed(x).relu().flatten(1))


def test_flattened_tokens_are_refused():
    x = torch.randn(2, 4, 6)
    with pytest.raises(UnsupportedLayerError, match="ignore 'embed'"):
        cut(Tokens(), x, sparsity=0.4)
    assert cut_keeps(Tokens(), x)


def cut_keeps(module, x):
    """With what cannot be cut left alone, the network is as it was, or says that nothing is left."""
    try:
        return cut(module, x, sparsity=0.1, **KEEP).proof <= 1e-5
    except InputError as error:
        return "no channel of the network can be removed" in str(error)


class TiedLayers(nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.a, self.b, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.last(self.b(self.a(self.first(x)).relu()).relu())


def test_tied_weights_are_refused_and_the_rest_is_cut():
    with pytest.raises(UnsupportedLayerError, match=r"layer 'a' .*shares a parameter with 'b' \(tied weights\)"):
        cut(TiedLayers(), ROWS, sparsity=0.3)
    module = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 6), TiedLayers())
    report = cut(module, ROWS, sparsity=0.1, **KEEP)
    assert report.module[3].a.weight is report.module[3].b.weight
    assert report.widths_after["0"] < 10
    assert report.proof <= 1e-5


class TiedAutoencoder(nn.Module):
    """The decoder's weight is the encoder's, as one parameter of two layers of other kinds."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 3, 1)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(self.encode(x).relu())


def test_a_tied_autoencoder_is_refused():
    with pytest.raises(UnsupportedLayerError, match=r"shares a parameter with '(en|de)code' \(tied weights\)"):
        cut(TiedAutoencoder(), IMAGE, sparsity=0.3)
    assert cut_keeps(TiedAutoencoder(), IMAGE)


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        y = self.norm(self.first(x)).relu_()
        y += self.second(y)
        view = y.view(len(y), y.shape[1], -1)
        view.mul_(2)
        return self.last(functional.hardtanh_(y, -3, 3).mean((2, 3)))


def test_work_in_place_and_on_views_is_followed():
    module = InPlace().eval()
    expected = module(IMAGE)
    report = cut(module, IMAGE)
    assert report.widths_after == {"first": 4, "second": 4, "last": 4} or report.reached >= 0.5
    assert report.proof <= 1e-5
    assert torch.equal(module(IMAGE), expected)


class EndlessError(Exception):
    """Nothing that the engine handles."""


@pytest.fixture
def followed(monkeypatch):
    """Counts how often lists of channels go from layer to layer, and their entries; ends what does not end itself."""
    count, mapped = Counter(), trace._mapped

    def counting(dependency, indices):
        pairs = mapped(dependency, indices)
        count["lists"] += 1
        count["channels"] += len(pairs)
        if count["channels"] > 100_000:
            raise EndlessError(f"{count['channels']} channels were followed")
        return pairs

    monkeypatch.setattr(trace, "_mapped", counting)
    return count


def test_a_wide_flattened_map_is_followed_once(followed):
    """4096 inputs behind 64 channels; python lists per index took half a minute."""
    module = nn.Sequential(
        nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4096, 32), nn.ReLU(), nn.Linear(32, 3)
    )
    report = cut(module, IMAGE)
    assert 4096 < followed["channels"] < 8 * (64 + 4096 + 32 + 3)
    assert followed["lists"] < 30  # not one per channel, of which there are 4195
    assert report.module[3].in_features == 64 * report.widths_after["0"]


@pytest.mark.parametrize("norm", [{"affine": False}, {"track_running_stats": False}])
def test_norms_without_scales_or_statistics(norm):
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, **norm), nn.ReLU(), nn.Conv2d(8, 2, 1))
    report = cut(module.eval(), IMAGE)
    assert report.module[1].num_features == 4 or report.reached >= 0.5


def test_networks_in_double_precision_stay_double():
    report = cut(Chain().double(), ROWS.double())
    assert {parameter.dtype for parameter in report.module.parameters()} == {torch.float64}


class ShuffleUnit(nn.Module):
    """Half of the channels go through, the other half is computed, and they are shuffled."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 1), nn.Linear(8, 3)

    def forward(self, x):
        left, right = self.stem(x).chunk(2, 1)
        y = torch.cat([left, self.body(right).relu()], 1)
        n, c, h, w = y.shape
        return self.head(y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w).mean((2, 3)))


def test_a_shuffle_network_is_refused_or_left_alone():
    with pytest.raises(UnsupportedLayerError, match="to leave its group"):
        cut(ShuffleUnit(), IMAGE)
    assert cut_keeps(ShuffleUnit(), IMAGE)


def normed(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())


class ShuffledAgain(nn.Module):
    """Two branches side by side, shuffled; then twice one half computed, and shuffled again."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.last, self.head = normed(3, 4), normed(3, 4), normed(8, 6), nn.Linear(6, 3)
        self.halves = nn.ModuleList(normed(4, 4) for _ in range(2))

    def forward(self, x):
        x = self.shuffled(self.left(x), self.right(x))
        for half in self.halves:
            left, right = x.chunk(2, 1)
            x = self.shuffled(left, half(right))
        return self.head(self.last(x).mean((2, 3)))

    def shuffled(self, *parts):
        y = torch.cat(parts, 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


@pytest.mark.parametrize("unsupported", ["raise", "keep"])
def test_halves_of_shuffled_channels_are_refused_with_the_reason(unsupported):
    with pytest.raises(UnsupportedLayerError, match=r"reshapes or shuffles .* prune single weights instead"):
        cut(ShuffledAgain().eval(), IMAGE, unsupported=unsupported)


def test_shifted_windows_are_refused_but_for_their_hidden_layer():
    with pytest.raises(UnsupportedLayerError, match="to leave its group"):
        cut(Swin(), IMAGE)
    report = cut(Swin(), IMAGE, sparsity=0.1, **KEEP)
    assert report.proof <= 1e-5
    assert report.widths_after["block.up"] < 16


def test_padded_shortcuts_are_cut_after_they_were_rewritten():
    network = load_network("cifar_resnet20")
    report = cut(network.module, torch.randn(2, 3, 32, 32))
    assert report.proof <= 1e-5
    assert report.after.multiply_adds < 0.4 * report.before.multiply_adds


class OptionB(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3, padding=1), BasicBlock(8, 12, 2), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.block(self.stem(x)).mean((2, 3)))


def test_what_torch_compile_has_wrapped_is_cut_behind_it():
    module = torch.compile(OptionB().eval(), backend="eager")
    report = cut(module._orig_mod, IMAGE)
    assert report.proof <= 1e-5


class ImageNorm(nn.LayerNorm):
    """A layer norm over the channels of images, as many networks write their own."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ImageNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.body = nn.Conv2d(3, 8, 3, padding=1), ImageNorm(8), nn.Conv2d(8, 12, 1)
        self.group, self.head = nn.GroupNorm(3, 12), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.group(self.body(self.norm(self.stem(x)).relu())).relu().mean((2, 3)))


def test_layer_norms_over_the_channels_of_images():
    torch.manual_seed(0)
    module = ImageNorms().eval()  # images as wide as there are channels: sizes alone do not tell the axis
    report = cut(module, IMAGE, sparsity=0.4)
    assert report.widths_after["stem"] < 8
    kept = ~report.removal[Side("stem", "out")]
    x = module.stem(IMAGE)[:, kept]  # by hand: the norm of the channels that are left
    mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    by_hand = (x - mean) / (var + module.norm.eps).sqrt()
    torch.testing.assert_close(report.module.norm(report.module.stem(IMAGE)), by_hand)


class ImageAttention(nn.Module):
    """Attention over the places of images: queries, keys and values are cut into heads by a view."""

    def __init__(self, width=32, heads=2, places=16):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        self.bias = nn.Parameter(torch.randn(heads, places, places))

    def forward(self, x):
        n, c, h, w = x.shape
        parts = self.qkv(x).view(n, self.heads, 3 * c // self.heads, h * w).transpose(2, 3).chunk(3, 3)
        q, k, v = (part.contiguous() for part in parts)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return x + self.proj(y.transpose(2, 3).reshape(n, c, h, w))


def test_images_cut_into_heads_are_refused_at_once(followed):
    """Each view was taken for a flattened map, and multiplied the channels again, without end."""
    x = torch.randn(2, 3, 4, 4)
    module = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), ImageAttention(), nn.Conv2d(32, 4, 1), nn.Flatten()).eval()
    with pytest.raises(UnsupportedLayerError, match="to leave its group"):
        cut(module, x)
    assert cut_keeps(module, x)
    assert followed["channels"] < 2 * 4000  # 228 channels and their views, twice
