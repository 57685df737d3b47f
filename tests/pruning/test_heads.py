"""Whole heads go, and the rest computes the same."""

import pytest
import torch
from families import FusedAttention, VisionTransformer, make
from torch import nn

from sparsense.criteria import CRITERIA
from sparsense.errors import InputError, UnsupportedLayerError
from sparsense.pruning.dry_run import dry_run_heads
from sparsense.pruning.heads import AttentionHeads, find_attention, prune_heads
from sparsense.recording.layers import prunable_weights


class Fixed(FusedAttention):
    """Writes its width instead of counting heads."""

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        return self.proj(((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(n, t, c))


def network(attention):
    torch.manual_seed(0)
    return VisionTransformer(attention).eval()


def magnitude(module):
    return CRITERIA["magnitude"](prunable_weights(module))


def zero_head(module, fused):
    """Make head 0 silent by hand: its values and what reads it."""
    attention = module.attention
    with torch.no_grad():
        rows = slice(16, 20) if fused else slice(0, 4)
        layer = attention.qkv if fused else attention.v
        layer.weight[rows] = 0
        layer.bias[rows] = 0


@pytest.mark.parametrize("name", ["transformer_fused", "transformer_separate"])
def test_a_silent_head_goes_and_nothing_changes(name):
    module, x = make(name)
    zero_head(module, fused=name.endswith("fused"))
    saliency = magnitude(module)
    with torch.no_grad():
        module.attention.get_submodule("proj" if name.endswith("fused") else "out").weight[:, :4] *= 1e-6
    expected = module(x)
    report = prune_heads(module, x, magnitude(module), sparsity=0.5)
    assert report.heads_before == {"attention": 2}
    assert report.heads_after == {"attention": 1}
    assert report.proof < 1e-6
    torch.testing.assert_close(report.module(x), expected, rtol=1e-4, atol=1e-4)
    assert saliency.keys() == magnitude(report.module).keys()


def test_saliency_of_a_head_is_the_sum_of_its_weights():
    module, _ = make("transformer_fused")
    attention = find_attention(module)[0]
    assert attention == AttentionHeads("attention", 2, "num_heads", (("attention.qkv", 3),), "attention.proj")
    saliency = magnitude(module)
    qkv, proj = module.attention.qkv.weight.abs(), module.attention.proj.weight.abs()
    rows = [[*range(h * 4, h * 4 + 4), *range(8 + h * 4, 12 + h * 4), *range(16 + h * 4, 20 + h * 4)] for h in (0, 1)]
    expected = [float((qkv[r].sum() + proj[:, h * 4 : h * 4 + 4].sum()).detach()) for h, r in enumerate(rows)]
    assert attention.saliency(module, saliency).tolist() == pytest.approx(expected)


def test_every_module_keeps_a_head_and_targets_round_up():
    torch.manual_seed(0)
    module = nn.Sequential(FusedAttention(8, 4), FusedAttention(8, 4)).eval()
    saliency = magnitude(module)
    saliency["0.qkv.weight"] *= 1e-3
    saliency["0.proj.weight"] *= 1e-3
    x = torch.randn(2, 5, 8)
    assert prune_heads(module, x, saliency, sparsity=0.3).heads_after == {"0": 1, "1": 4}
    assert prune_heads(module, x, saliency, sparsity=0.74).heads_after == {"0": 1, "1": 1}
    assert prune_heads(module, x, saliency, sparsity=0.0).heads_after == {"0": 4, "1": 4}
    with pytest.raises(InputError, match=r"0\.9 takes 8 of 8 heads, but each of the 2 attention modules keeps one"):
        prune_heads(module, x, saliency, sparsity=0.9)


def test_attention_that_does_not_follow_its_number_of_heads_is_refused():
    module = network(Fixed)
    with pytest.raises(UnsupportedLayerError, match=r"layer 'attention' .*forward pass fails there"):
        prune_heads(module, torch.randn(2, 3, 8, 8), magnitude(module), sparsity=0.5)


def test_a_dry_run_of_heads_finds_out_by_trying():
    x = torch.randn(2, 3, 8, 8)
    for attention, reason in ((FusedAttention, ""), (Fixed, "forward pass fails there")):
        module = network(attention).train()
        state = {key: value.clone() for key, value in module.state_dict().items()}
        (row,) = dry_run_heads(module, x).rows
        assert (row.producers, row.coupled, row.units) == (("attention.qkv",), ("attention.proj",), 2)
        assert reason in row.left_alone
        assert bool(reason) == bool(row.left_alone)
        assert module.training
        assert module.attention.num_heads == 2
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    module = VisionTransformer(lambda width, _heads: FusedAttention(width, 1)).eval()
    assert dry_run_heads(module, x).rows[0].left_alone == "it has one head"


def test_networks_without_recognised_attention_are_refused():
    module, x = make("transformer")
    with pytest.raises(InputError, match="no attention module was recognised"):
        prune_heads(module, x, magnitude(module), sparsity=0.5)
