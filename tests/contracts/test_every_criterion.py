"""Every registered criterion: the promises of a saliency, for both structures and every scope."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from sparsense.criteria import CRITERIA
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.plan import comparing
from sparsense.pruning.select import SCOPES, select
from sparsense.pruning.sequence import SCOPES as SEQUENCES
from sparsense.pruning.weights import unprotected
from sparsense.recording.layers import layouts, prunable_weights
from sparsense.recording.passes import Source, record_for, saliency_of

CHANNEL_SCOPES = {
    **{name: name for name in ("global", "block", "layer")},
    "shares": lambda amount: {"stem": amount, "hidden": amount**2, "up": 0.5 * amount},
}
ZERO_IS_NOT_LEAST = {"random", "grasp"}  # random by nature; grasp is signed


class Tiny(nn.Module):
    """A residual sum, a depthwise and a transposed convolution, a norm, a flattened map."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.depth, self.point = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 1, bias=False)
        self.up, self.hidden, self.head = nn.ConvTranspose2d(6, 4, 2, 2), nn.Linear(64, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        x = x + self.point(self.depth(x).relu())
        return self.head(self.hidden(self.up(torch.max_pool2d(x, 2)).flatten(1)).relu())


def tiny():
    torch.manual_seed(3)
    module = Tiny().eval()
    module.norm.weight.data.uniform_(0.5, 1.5)
    module.norm.running_mean.normal_(0, 0.1)
    return module


def source(name):
    torch.manual_seed(4)
    loss = "energy" if "score" in name else "cross_entropy"
    return Source(torch.randn(12, 2, 4, 4), torch.arange(12) % 3, loss=loss)


@pytest.fixture(scope="module")
def saliencies():
    """Computed once; tests get fresh copies."""
    return {name: saliency_of(tiny(), name, source(name)) for name in CRITERIA}


@pytest.fixture
def saliency(saliencies, request):
    return {key: values.clone() for key, values in saliencies[request.getfixturevalue("name")].items()}


every = pytest.mark.parametrize("name", list(CRITERIA))


def test_all_that_is_promised_is_registered():
    """One entry per criterion of the literature that the package names; new ones are added here."""
    plain = {"random", "magnitude", "layer_adaptive_magnitude", "snip", "grasp", "synflow", "taylor", "obd", "fpgm"}
    others = {"batch_norm_scale", "wanda", "crop", "score_fisher"}
    assert set(CRITERIA) == plain | others | {"gate_taylor", "gate_crop", "gate_score_fisher"}
    assert set(CHANNEL_SCOPES) == {*SEQUENCES, "shares"}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("snip", {}), ("taylor", {}), ("taylor", {"order": 2}), ("crop", {}), ("grasp", {}),
        ("gate_taylor", {"moment": "absolute"}), ("gate_crop", {}),
    ],
)  # fmt: skip
def test_criteria_that_look_at_a_loss_may_look_at_a_score(name, options):
    module, x = tiny(), torch.randn(12, 2, 4, 4, generator=torch.Generator().manual_seed(4))
    labels = torch.arange(12) % 3
    by_class, by_score = (saliency_of(module, name, Source(x, labels, loss=loss), **options)
                          for loss in ("cross_entropy", "energy"))  # fmt: skip
    for key, values in by_score.items():
        assert torch.isfinite(values).all()
        assert (values >= 0).all()
        assert not torch.allclose(values, by_class[key], rtol=1e-3, atol=0)
    without_labels = saliency_of(module, name, Source(x, None, loss="energy"), **options)
    assert all(torch.equal(values, by_score[key]) for key, values in without_labels.items())


@every
def test_names_shapes_and_signs(name, saliency):
    weights = prunable_weights(tiny())
    assert list(saliency) == list(weights)
    for key, values in saliency.items():
        assert values.shape == weights[key].shape
        assert values.dtype == torch.float64
        assert torch.isfinite(values).all()
        assert (values >= 0).all()
        assert values.is_contiguous()
    assert any(values.max() > 0 for values in saliency.values())


@every
def test_inputs_stay_as_they_were_and_results_repeat(name, saliency):
    module = tiny()
    record = record_for(module, CRITERIA[name], source(name))
    options = {"layouts": layouts(module)} if CRITERIA[name].filters else {}
    weights = {key: value.clone() for key, value in prunable_weights(module).items()}
    before = deepcopy(weights)
    first = CRITERIA[name](weights, record, **options)
    for values in first.values():
        values.add_(1)  # a result that shares memory with its inputs would spoil them
    second = CRITERIA[name](weights, record, **options)
    assert all(torch.equal(weights[key], before[key]) for key in weights)
    assert all(torch.allclose(second[key], saliency[key], rtol=1e-9, atol=0) for key in weights)


@every
def test_a_zero_weight_is_the_least_of_its_layer(name, saliency):
    if name in ZERO_IS_NOT_LEAST or CRITERIA[name].filters:
        pytest.skip("the criterion is signed, random, or judges whole channels")
    module = tiny()
    for weight in prunable_weights(module).values():
        weight.view(-1)[1] = 0
    for key, values in saliency_of(module, name, source(name)).items():
        assert values.view(-1)[1] == values.min(), key


@every
@pytest.mark.parametrize("scope", SCOPES)
def test_the_asked_sparsity_of_weights_is_reached(name, saliency, scope):
    module = tiny()
    open_saliency = unprotected(module, saliency)
    mask = select(open_saliency, sparsity=0.6, scope=scope, layouts=layouts(module))
    assert mask.size - mask.kept == round(0.6 * mask.size)
    assert all(keep.any() for keep in mask.keep.values())
    mask.apply_(module)
    zeros = sum(int((weight == 0).sum()) for key, weight in prunable_weights(module).items() if key in mask.keep)
    assert zeros == round(0.6 * mask.size)


@every
@pytest.mark.parametrize("scope", CHANNEL_SCOPES)
def test_the_asked_sparsity_of_channels_is_reached(name, saliency, scope):
    x = torch.randn(2, 2, 4, 4)
    report = prune_channels(tiny(), x, saliency, sparsity=0.4, scope=CHANNEL_SCOPES[scope], options=comparing(name))
    assert 0.4 <= report.reached < 0.7
    assert report.proof < 1e-5
    assert report.after.parameters < report.before.parameters


@every
def test_the_docstring_says_what_one_must_know(name):
    entry = CRITERIA[name]
    assert entry.name == name
    assert entry.advice.endswith(".")
    assert "Returns:" in (entry.function.__doc__ or "")
    assert "saliency" in (entry.function.__doc__ or "").lower()
