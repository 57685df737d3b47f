"""Networks as people write them: they work, or are refused with the reason, and are as they were afterwards."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from sparsense.criteria import CRITERIA
from sparsense.errors import InputError, UnsupportedLayerError
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.cost import measure_cost
from sparsense.pruning.dry_run import dry_run
from sparsense.pruning.plan import ChannelOptions
from sparsense.pruning.proof import DisproofError, same_outputs
from sparsense.recording.layers import prunable_weights
from sparsense.recording.moments import record_moments
from sparsense.recording.passes import Source, saliency_of
from sparsense.sensitivity import SensitivityRecord

ROWS = torch.randn(4, 10)
IMAGE = torch.randn(3, 3, 8, 8)
SEQUENCE = torch.randn(3, 5, 10)


class Net(nn.Module):
    """Layers by name, and what to do with them."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.steps = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.steps(self, *inputs)


def chain(forward=lambda s, x: s.last(s.first(x).relu())):
    return Net(forward, first=nn.Linear(10, 8), last=nn.Linear(8, 4)).eval()


def cut(module, x, sparsity=0.3, **options):
    saliency = CRITERIA["magnitude"](prunable_weights(module))
    return prune_channels(module, x, saliency, sparsity=sparsity, options=ChannelOptions(**options))


# Layers


def test_one_slope_for_all_channels_couples_nothing():
    module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.PReLU(), nn.Conv2d(8, 6, 1), nn.PReLU(6), nn.Conv2d(6, 2, 1))
    report = cut(module, IMAGE, sparsity=0.4)
    assert report.widths_after["0"] < 8
    assert report.module[1].num_parameters == 1
    assert report.module[3].num_parameters == report.widths_after["2"]
    assert report.proof <= 1e-6


def test_a_decoder_that_unflattens_follows_its_width():
    module = nn.Sequential(
        nn.Linear(10, 48), nn.ReLU(), nn.Unflatten(1, (12, 2, 2)), nn.ConvTranspose2d(12, 6, 4, 2, 1), nn.ReLU(),
        nn.Conv2d(6, 1, 1),
    ).eval()  # fmt: skip
    report = cut(module, ROWS, sparsity=0.5)
    assert report.module[3].in_channels < 12
    assert report.module[0].out_features == 4 * report.module[3].in_channels
    assert report.proof <= 1e-6
    assert module[2].unflattened_size == (12, 2, 2)


def test_layers_called_by_keyword_are_seen():
    def forward(s, x):
        h = s.first(input=x)
        h, _ = s.attention(query=h, key=h, value=h)
        return s.last(input=h.mean(1))

    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    module = Net(forward, first=nn.Linear(10, 8), attention=attention, last=nn.Linear(8, 4)).eval()
    assert cut(module, SEQUENCE).widths_after["first"] < 8
    assert measure_cost(module, SEQUENCE).multiply_adds == 5 * (10 * 8 + 4 * 8 * 8) + 8 * 4
    assert set(record_moments(module, SEQUENCE, torch.tensor([0, 1, 2])).moments) == set(prunable_weights(module))


@pytest.mark.parametrize("name", ["bias", "weight"])
def test_parametrised_tensors_of_any_layer_are_refused(name):
    module = nn.Sequential(nn.Linear(10, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    parametrize.register_parametrization(module[1] if name == "weight" else module[0], name, nn.Softplus())
    with pytest.raises(UnsupportedLayerError, match=f"its {name} is computed by a parametrisation"):
        cut(module, ROWS)
    report = cut(module, ROWS, sparsity=0.2, unsupported="keep")
    assert report.widths_after["0"] == 8
    assert report.widths_after["2"] < 6


def test_attention_with_keys_of_another_width_is_refused_for_that():
    def forward(s, x):
        return s.last(s.hidden(s.attention(s.first(x), s.keys(x), s.keys(x))[0].mean(1)).relu())

    attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)
    module = Net(
        forward, first=nn.Linear(10, 8), keys=nn.Linear(10, 6), attention=attention, hidden=nn.Linear(8, 12),
        last=nn.Linear(12, 4),
    ).eval()  # fmt: skip
    with pytest.raises(UnsupportedLayerError, match=r"layer 'attention' .*another width than its queries"):
        cut(module, SEQUENCE)
    assert cut(module, SEQUENCE, sparsity=0.1, unsupported="keep").widths_after["hidden"] < 12


def repeated(s, x):
    """Attention whose two heads of keys and values serve two queries each."""
    x = s.first(x)
    n, t, _ = x.shape
    q = s.q(x).view(n, t, 4, 4).transpose(1, 2)
    k, v = (
        layer(x).view(n, t, 2, 4).transpose(1, 2)[:, :, None].expand(n, 2, 2, t, 4).reshape(n, 4, t, 4)
        for layer in (s.k, s.v)
    )
    y = ((q @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).reshape(n, t, 16)
    return s.last(s.out(y).mean(1))


def test_repeated_keys_and_values_are_refused():
    module = Net(
        repeated, first=nn.Linear(10, 12), q=nn.Linear(12, 16), k=nn.Linear(12, 8), v=nn.Linear(12, 8),
        out=nn.Linear(16, 6), last=nn.Linear(6, 4),
    ).eval()  # fmt: skip
    with pytest.raises(UnsupportedLayerError, match="to leave its group"):
        cut(module, SEQUENCE)
    report = cut(module, SEQUENCE, sparsity=0.15, unsupported="keep")
    assert report.widths_after["first"] < 12
    assert [report.widths_after[name] for name in "qkv"] == [16, 8, 8]


# Parts that no gradient reaches


def frozen_by(how):
    def forward(s, x):
        if how == "no_grad":
            with torch.no_grad():
                h = s.frozen(x).relu()
        else:
            h = s.frozen(x).relu().detach()
        return s.last(s.first(h).relu())

    return Net(forward, frozen=nn.Linear(10, 8), first=nn.Linear(8, 12), last=nn.Linear(12, 4)).eval()


@pytest.mark.parametrize("how", ["no_grad", "detach"])
def test_a_backbone_without_gradients_is_left_alone_when_asked(how):
    with pytest.raises(UnsupportedLayerError, match=r"layer 'frozen' .*torch.no_grad\(\).*ignore it"):
        cut(frozen_by(how), ROWS)
    report = cut(frozen_by(how), ROWS, unsupported="keep")
    assert report.widths_after["frozen"] == 8
    assert report.widths_after["first"] < 12
    assert report.proof <= 1e-6


def test_a_layer_whose_output_nobody_uses_is_named():
    def forward(s, x):
        h = s.first(x).relu()
        s.unused(h)
        return s.last(h)

    module = Net(forward, first=nn.Linear(10, 8), unused=nn.Linear(8, 8), last=nn.Linear(8, 4)).eval()
    with pytest.raises(UnsupportedLayerError, match=r"layer 'unused' .*not used"):
        cut(module, ROWS)
    with pytest.raises(InputError, match=r"no channel .* can be removed: first: .*forward pass fails"):
        cut(module, ROWS, unsupported="keep")


# What cannot be run, copied or proved


def test_a_script_is_refused():
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        script = torch.jit.trace(nn.Linear(10, 4), ROWS)
    with pytest.raises(UnsupportedLayerError, match="compiled script cannot be changed"):
        prunable_weights(script)


def test_an_example_that_does_not_fit_is_refused_with_its_shape():
    with pytest.raises(InputError, match=r"example input float32 \[3, 5\].*forward pass failed with RuntimeError"):
        cut(chain(), torch.randn(3, 5))
    with pytest.raises(InputError, match="give an example of what it takes"):
        dry_run(chain(), torch.randn(3, 5))


def test_what_cannot_be_copied_is_refused():
    module = chain()
    module.lock = threading.Lock()
    with pytest.raises(InputError, match=r"cannot pickle .*locks, open files"):
        cut(module, ROWS)


def test_outputs_that_are_not_numbers_prove_nothing():
    never = chain(lambda s, x: s.last((s.first(x) - 1e6).sqrt()))
    with pytest.raises(UnsupportedLayerError, match="NaN or infinite, so nothing can be proved"):
        cut(never, ROWS)
    sometimes = chain(lambda s, x: s.last(s.first(x).relu()).log())
    assert cut(sometimes, ROWS).proof <= 1e-6


def test_a_network_that_alone_gives_nan_differs():
    module = chain()
    broken = chain()
    broken.load_state_dict(module.state_dict())
    broken.last.bias.data[0] = torch.nan
    for one, other in ((module, broken), (broken, module)):
        with pytest.raises(DisproofError, match=r"differs .* by inf"):
            same_outputs(one, other, ROWS)
    assert same_outputs(broken, broken, ROWS) == 0


# What a forward pass leaves behind


class Keeps(nn.Module):
    """Counts its calls, keeps its activations, draws numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.calls, self.kept = nn.Linear(10, 8), nn.Linear(8, 4), 0, None
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen += len(x)
        self.kept = self.first(x).relu()
        return self.last(self.kept + torch.randn(len(x), 1))


def test_nothing_is_left_behind_in_the_network():
    module, state = Keeps().train(), torch.get_rng_state()
    calls = []
    module.first.register_forward_hook(lambda *_: calls.append(1))
    report = cut(module, ROWS)
    dry_run(module, ROWS)
    assert report.proof <= 1e-6
    assert (module.calls, module.kept, float(module.seen), calls) == (0, None, 0.0, [])
    assert torch.equal(torch.get_rng_state(), state)
    record = record_moments(module, ROWS, torch.tensor([0, 1, 2, 3]))
    assert isinstance(record, SensitivityRecord)
    assert (module.calls, module.kept, float(module.seen)) == (0, None, 0.0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_that_kept_activations_of_training_is_cut():
    module = Keeps()
    functional.cross_entropy(module(ROWS), torch.zeros(4, dtype=torch.int64))
    kept = module.kept
    assert cut(module, ROWS).proof <= 1e-6
    assert module.kept is kept
    kept.sum().backward()  # its graph is still there


# Records of strange networks


LABELS = torch.tensor([0, 1, 2, 3])


def saliency(module, criterion="taylor", inputs=ROWS, labels=LABELS, **options):
    return saliency_of(module, criterion, Source(inputs, labels, probes=2), **options)


@pytest.mark.parametrize("criterion", ["taylor", "crop", "obd", "synflow"])
def test_the_first_of_several_outputs_is_recorded(criterion):
    plain = chain()
    nested = chain(lambda s, x: {"logits": s.last(s.first(x).relu()), "more": [x]})
    nested.load_state_dict(plain.state_dict())
    expected = saliency(plain, criterion)
    for name, values in saliency(nested, criterion).items():
        assert torch.equal(values, expected[name])
    with pytest.raises(InputError, match="gives NoneType instead of a tensor"):
        saliency(chain(lambda s, x: None), criterion)


@pytest.mark.parametrize("criterion", ["taylor", "crop", "synflow", "batch_norm_scale"])
def test_a_recording_that_cannot_run_says_on_what(criterion):
    two = chain(lambda s, x, y: s.last(s.first(x + y)))
    with pytest.raises(InputError, match=r"recording: .* on inputs float\d\d \[\d, 10\].*failed with TypeError"):
        saliency(two, criterion)


@pytest.mark.parametrize("criterion", ["taylor", "crop", "obd", "synflow"])
def test_nothing_to_record_is_refused(criterion):
    with pytest.raises(InputError, match="no convolution and no fully connected layer"):
        saliency(nn.Sequential(nn.ReLU()), criterion)


def test_networks_of_half_precision_are_recorded():
    module = chain().bfloat16()
    exact = saliency(chain_like(module), "taylor", ROWS.bfloat16().float())
    for name, values in saliency(module, "taylor", ROWS.bfloat16()).items():
        torch.testing.assert_close(values, exact[name], rtol=0.2, atol=0.05 * float(exact[name].max()))


def chain_like(module):
    twin = chain()
    twin.load_state_dict(module.state_dict())
    return twin


def test_unknown_options_and_saliencies_of_other_shapes_are_refused():
    with pytest.raises(InputError, match="criterion 'magnitude' has no option 'norme'; it has norm"):
        saliency(chain(), "magnitude", norme="l1")
    module = chain()
    scores = {name: weight[:1].abs() for name, weight in prunable_weights(module).items()}
    with pytest.raises(
        InputError, match=r"saliency of 'first.weight' must have the shape .*\[8, 10\]; it has \[1, 10\]"
    ):
        prune_channels(module, ROWS, scores, sparsity=0.3)
