"""Tiny networks of transformers and timm: heads and neurons go exactly, or are refused by layer and reason."""

import pytest
import torch
from torch import nn

from sparsense.criteria import CRITERIA
from sparsense.errors import UnsupportedLayerError
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.heads import prune_heads
from sparsense.pruning.plan import ChannelOptions
from sparsense.recording.layers import prunable_weights

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the zoos are theirs
SMALL = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 24, "num_labels": 3}  # fmt: skip
WINDOWS = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 4], "window_size": 2,
           "num_labels": 3}  # fmt: skip
TRANSFORMERS = {
    "ViT": SMALL, "DeiT": SMALL, "Beit": SMALL, "Swin": WINDOWS,
    "ConvNext": {"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2, "num_labels": 3},
}  # fmt: skip
TIMM = {
    "vision_transformer.VisionTransformer": {"embed_dim": 16, "depth": 2, "num_heads": 4, "patch_size": 8},
    "mlp_mixer.MlpMixer": {"embed_dim": 16, "num_blocks": 2, "patch_size": 8},
    "swin_transformer.SwinTransformer": {
        "embed_dim": 8, "depths": (2, 1), "num_heads": (2, 4), "patch_size": 2, "window_size": 2
    },
}  # fmt: skip
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def lively(module):
    """No two channels alike, and no branch scaled to nothing."""
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1 or "lambda" in name or "scale" in name:
            nn.init.normal_(parameter, 0, 0.3)
    return module.eval()


def of_transformers(name):
    zoo = pytest.importorskip("transformers", reason="needs transformers: pip install 'sparsense[transformers]'")
    config = getattr(zoo, f"{name}Config")(**TRANSFORMERS[name])
    return lively(getattr(zoo, f"{name}ForImageClassification")(config))


def of_timm(path):
    pytest.importorskip("timm", reason="needs timm: pip install 'sparsense[timm]'")
    file, _, kind = path.partition(".")
    models = pytest.importorskip(f"timm.models.{file}")
    return lively(getattr(models, kind)(img_size=16, num_classes=3, **TIMM[path]))


def saliency(module):
    return CRITERIA["magnitude"](prunable_weights(module))


def neurons_are_cut_exactly(module):
    """What cannot be cut is refused by name; without it the hidden neurons go, and the outputs are the masked ones."""
    report = prune_channels(module, X, saliency(module), sparsity=0.1, options=ChannelOptions(unsupported="keep"))
    if any(group.refusal for group in report.groups):
        with pytest.raises(UnsupportedLayerError, match="to leave its group") as refused:
            prune_channels(module, X, saliency(module), sparsity=0.1)
        assert refused.value.layer in dict(module.named_modules())
    assert report.proof <= 1e-5
    assert report.after.parameters < report.before.parameters
    found = report.module(X)
    assert getattr(found, "logits", found).shape == (2, 3)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_neurons_of_transformers(name):
    neurons_are_cut_exactly(of_transformers(name))


@pytest.mark.parametrize("path", TIMM)
def test_neurons_of_timm(path):
    neurons_are_cut_exactly(of_timm(path))


def heads_go_exactly(module):
    report = prune_heads(module, X, saliency(module), sparsity=0.4)
    assert sum(report.heads_after.values()) == 4
    assert sum(report.heads_before.values()) == 8
    assert report.proof <= 1e-5


@pytest.mark.parametrize("name", ["ViT", "DeiT", "Beit"])
def test_heads_of_transformers(name):
    heads_go_exactly(of_transformers(name))


def test_heads_of_timm():
    heads_go_exactly(of_timm("vision_transformer.VisionTransformer"))


@pytest.mark.parametrize("make", [lambda: of_transformers("Swin"), lambda: of_timm("swin_transformer.SwinTransformer")])
def test_heads_with_a_bias_of_their_own_are_refused_by_layer(make):
    module = make()
    with pytest.raises(UnsupportedLayerError, match="forward pass fails there") as refused:
        prune_heads(module, X, saliency(module), sparsity=0.3)
    assert "Attention" in type(module.get_submodule(refused.value.layer)).__name__
