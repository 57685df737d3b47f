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

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
REFUSED = {"transformer_separate", "transformer_fused", "mixer", "swin"}
"""Their token mixing cannot be cut; the other groups of them can."""


def family(name):
    if name in FAMILIES:
        return make(name)
    torch.manual_seed(0)
    return MORE[name]().eval(), torch.randn(2, 3, 16, 16)


def normed(norm, x, kept):
    """A norm of the kept channels by its formula, zero elsewhere."""
    kinds = {nn.LayerNorm: -1, nn.RMSNorm: -1, nn.GroupNorm: 1}
    axis = next(axis for kind, axis in kinds.items() if isinstance(norm, kind))
    part = x.movedim(axis, -1)[..., kept]
    if isinstance(norm, nn.GroupNorm):  # over the places, too
        rows = part.movedim(-1, 1).reshape(len(x), norm.num_groups, -1)
        rows = (rows - rows.mean(2, keepdim=True)) / (rows.var(2, unbiased=False, keepdim=True) + norm.eps).sqrt()
        part = rows.reshape(part.movedim(-1, 1).shape).movedim(1, -1)
    elif isinstance(norm, nn.LayerNorm):
        part = (part - part.mean(-1, keepdim=True)) / (part.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    else:
        part = part / (part.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    found = torch.zeros_like(x.movedim(axis, -1))
    found[..., kept] = part * norm.weight[kept] + (0 if getattr(norm, "bias", None) is None else norm.bias[kept])
    return found.movedim(-1, axis)


def attended(layer, x, kept):
    """Self-attention by its formula, with the channels silent in queries, keys, values and the output."""
    n, t, width = x.shape
    parts = nn.functional.linear(x * kept, layer.in_proj_weight, layer.in_proj_bias).chunk(3, 2)
    q, k, v = ((part * kept).view(n, t, layer.num_heads, -1).transpose(1, 2) for part in parts)
    weights = (q @ k.transpose(2, 3) / (width / layer.num_heads) ** 0.5).softmax(-1)
    return layer.out_proj((weights @ v).transpose(1, 2).reshape(n, t, width)) * kept, None


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
        if isinstance(layer, NORMS):
            layer.register_forward_hook(lambda layer, args, _out, gone=gone: normed(layer, args[0], ~gone))
        elif isinstance(layer, nn.MultiheadAttention):
            layer.register_forward_hook(lambda layer, args, _out, gone=gone: attended(layer, args[0], ~gone))
        elif side.side == "in":
            layer.register_forward_pre_hook(lambda layer, args, gone=gone: (zero(layer, args[0], gone), *args[1:]))
        else:
            layer.register_forward_hook(lambda layer, _args, output, gone=gone: zero(layer, output, gone))
    return module


@torch.no_grad()
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("name", [*FAMILIES, *MORE])
def test_outputs_agree(name, criterion):
    module, x = family(name)
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
