"""Removing channels equals silencing them, by hooks on activations instead of zeros in weights."""

import pytest
import torch
from families import FAMILIES, make
from own_families import MORE
from torch import nn

from sparsense.criteria import CRITERIA
from sparsense.errors import UnsupportedLayerError
from sparsense.pruning.channels import prune_channels
from sparsense.pruning.plan import ChannelOptions
from sparsense.recording.layers import prunable_weights

OVER_CHANNELS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.MultiheadAttention)
REFUSED = {"transformer_separate", "transformer_fused", "mixer"}
"""Their token mixing cannot be cut; the other groups of them can."""


def family(name):
    if name in FAMILIES:
        return make(name)
    torch.manual_seed(0)
    return MORE[name]().eval(), torch.randn(2, 3, 16, 16)


def silenced(module, removal):
    """Hooks that zero the channels wherever they are made and wherever they are read."""

    def axis(layer, tensor):
        return tensor.ndim - 1 if isinstance(layer, nn.Linear) else 1

    def zero(layer, tensor, gone):
        shape = [1] * tensor.ndim
        shape[axis(layer, tensor)] = -1
        return tensor * (~gone).reshape(shape)

    for side, gone in removal.items():
        layer = dict(module.named_modules()).get(side.layer)
        if layer is None:  # a bare parameter: what it multiplies is silent already
            continue
        if side.side == "in":
            layer.register_forward_pre_hook(lambda layer, args, gone=gone: (zero(layer, args[0], gone), *args[1:]))
        else:
            layer.register_forward_hook(lambda layer, _args, output, gone=gone: zero(layer, output, gone))
    return module


@torch.no_grad()
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("name", [*FAMILIES, *MORE])
def test_outputs_agree(name, criterion):
    module, x = family(name)
    if any(isinstance(part, OVER_CHANNELS) for part in module.modules()) and name not in REFUSED:
        pytest.skip("norms over channels count the silent ones; the proof has its own form for them")
    saliency = CRITERIA[criterion](prunable_weights(module))
    options = ChannelOptions(unsupported="keep" if name in REFUSED else "raise")
    report = prune_channels(module, x, saliency, sparsity=0.05 if name in REFUSED else 0.4, options=options)
    assert report.after.parameters < report.before.parameters
    removed = report.module.double()(x.double())
    expected = silenced(module.double(), report.removal)(x.double())
    torch.testing.assert_close(removed, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_cut_is_refused_by_name(name):
    module, x = family(name)
    with pytest.raises(UnsupportedLayerError, match="to leave its group"):
        prune_channels(module, x, CRITERIA["magnitude"](prunable_weights(module)), sparsity=0.4)
