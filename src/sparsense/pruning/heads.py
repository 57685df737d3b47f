"""Removing whole attention heads from attention modules written with fully connected layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsense.errors import InputError, UnsupportedLayerError
from sparsense.pruning.groups import Removal, Side
from sparsense.pruning.proof import DisproofError, prove
from sparsense.pruning.protect import Example
from sparsense.pruning.select import checked, least
from sparsense.pruning.surgery import cut_
from sparsense.recording.state import copy_of

FUSED = ("qkv", "c_attn", "in_proj", "to_qkv")
SEPARATE = (("q", "k", "v"), ("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("to_q", "to_k", "to_v"))
OUTPUT = ("proj", "out", "out_proj", "o_proj", "c_proj", "dense", "to_out")
HEADS = ("num_heads", "heads", "n_heads", "n_head", "num_attention_heads")
WIDTHS = ("attn_dim", "inner_dim", "all_head_size")


@dataclass(frozen=True)
class AttentionHeads:
    """Where the heads of one attention module lie.

    Args:
        name: The module.
        heads: How many there are.
        attribute: The attribute that holds that number.
        makers: Fully connected layers whose outputs are heads, each with the number of parts (3 when query, key
            and value are one layer) that hold all heads one after another.
        reader: The layer that reads the heads.
    """

    name: str
    heads: int
    attribute: str
    makers: tuple[tuple[str, int], ...]
    reader: str

    def removal(self, module: nn.Module, gone: Tensor) -> dict[Side, Tensor]:
        """The channels of the given heads (bool `[heads]`)."""
        removal = {}
        for maker, parts in self.makers:
            width = module.get_submodule(maker).out_features
            assert isinstance(width, int)
            removal[Side(maker, "out")] = gone.repeat_interleave(width // parts // self.heads).repeat(parts)
        width = module.get_submodule(self.reader).in_features
        assert isinstance(width, int)
        removal[Side(self.reader, "in")] = gone.repeat_interleave(width // self.heads)
        return removal

    def saliency(self, module: nn.Module, saliency: Mapping[str, Tensor]) -> Tensor:
        """The saliency of every head `[heads]`: the sum over its weights on both sides."""
        total = torch.zeros(self.heads, dtype=torch.float64)
        for side in self.removal(module, torch.zeros(self.heads, dtype=torch.bool)):
            values = checked(side.layer, saliency[f"{side.layer}.weight"]).cpu()
            rows = values.sum(1 if side.side == "out" else 0)
            parts = dict(self.makers).get(side.layer, 1) if side.side == "out" else 1
            total += rows.reshape(parts, self.heads, -1).sum((0, 2))
        return total


@dataclass(frozen=True)
class HeadReport:
    """The network with fewer heads.

    Args:
        module: The network.
        heads_before: Attention module -> heads.
        heads_after: The same after.
        proof: Largest relative difference between removing and masking the heads.
    """

    module: nn.Module
    heads_before: Mapping[str, int]
    heads_after: Mapping[str, int]
    proof: float


def find_attention(module: nn.Module) -> list[AttentionHeads]:
    """Attention modules whose layers and number of heads have usual names.

    Recognised are modules with a number of heads (`num_heads`, `heads` ...), one fused layer (`qkv` ...) or three
    (`q`, `k`, `v`; `query`, `key`, `value` ...) and an output layer (`proj`, `out` ...), all fully connected.
    """
    found = (_recognised(name, part) for name, part in module.named_modules())
    return [attention for attention in found if attention is not None]


def prune_heads(
    module: nn.Module,
    example_input: Example,
    saliency: Mapping[str, Tensor],
    *,
    sparsity: float,
    attentions: Sequence[AttentionHeads] | None = None,
) -> HeadReport:
    """Remove the least salient heads of a copy of a network, and prove that the rest is unchanged.

    Heads of all modules are compared with each other; every module keeps one. The width of a head stays, so
    nothing else changes.

    Args:
        module: The network; it is not changed.
        example_input: One batch (or a tuple of arguments).
        saliency: Prunable weight -> saliency.
        sparsity: Share of all heads to remove, in [0, 1); rounded up to whole heads.
        attentions: Where heads are; found by name when left out.

    Raises:
        InputError: No attention was found, or the target would leave a module without heads.
        UnsupportedLayerError: The forward pass does not follow the number of heads.
    """
    attentions = find_attention(module) if attentions is None else list(attentions)
    if not attentions:
        raise InputError(
            "pruning heads: no attention module was recognised; describe yours with attentions=[...] "
            "(nn.MultiheadAttention always has as many channels as its input: prune its channels)"
        )
    gone = _chosen(module, attentions, saliency, sparsity)
    try:
        pruned, proof = _without(module, attentions, gone, example_input)
    except DisproofError as error:
        where = error.layer or attentions[0].name
        raise UnsupportedLayerError(where, type(module.get_submodule(where)).__name__, error.reason) from error
    after = {a.name: int((~heads).sum()) for a, heads in zip(attentions, gone, strict=True)}
    return HeadReport(pruned, {a.name: a.heads for a in attentions}, after, proof)


def why_no_head_may_go(module: nn.Module, attention: AttentionHeads, example_input: Example) -> str:
    """Why no head of an attention module can be removed, found by removing its first one; "" when one can.

    Args:
        module: The network; it is not changed.
        attention: One of its attention modules.
        example_input: One batch (or a tuple of arguments).
    """
    if attention.heads == 1:
        return "it has one head"
    try:
        _without(module, [attention], [torch.arange(attention.heads) == 0], example_input)
    except DisproofError as error:
        return error.reason
    return ""


def _without(
    module: nn.Module, attentions: Sequence[AttentionHeads], gone: Sequence[Tensor], example_input: Example
) -> tuple[nn.Module, float]:
    """A copy without these heads, and the proof that the rest is as it was."""
    removal: Removal = {
        side: flags for attention, heads in zip(attentions, gone, strict=True)
        for side, flags in attention.removal(module, heads).items()
    }  # fmt: skip
    pruned = copy_of(module)
    cut_(pruned, removal)
    for attention, heads in zip(attentions, gone, strict=True):
        _write(pruned.get_submodule(attention.name), attention, int((~heads).sum()))
    return pruned, prove(module, pruned, removal, example_input)


def _chosen(
    module: nn.Module, attentions: Sequence[AttentionHeads], saliency: Mapping[str, Tensor], sparsity: float
) -> list[Tensor]:
    total = sum(attention.heads for attention in attentions)
    count = -int(-sparsity * total // 1)
    if not 0 <= sparsity < 1 or count > total - len(attentions):
        raise InputError(
            f"pruning heads: sparsity {sparsity} takes {count} of {total} heads, but each of the {len(attentions)} "
            "attention modules keeps one; ask for a sparsity in [0, 1) that leaves them"
        )
    values = [attention.saliency(module, saliency) for attention in attentions]
    best = torch.cat([torch.arange(len(v)) == v.argmax() for v in values])
    flat = torch.cat(values).masked_fill(best, torch.inf)
    gone = torch.zeros(total, dtype=torch.bool)
    gone[least(flat, count)] = True
    ends = torch.tensor([attention.heads for attention in attentions]).cumsum(0).tolist()
    return list(torch.tensor_split(gone, ends)[:-1])


def _recognised(name: str, part: nn.Module) -> AttentionHeads | None:
    attribute = next((key for key in HEADS if isinstance(getattr(part, key, None), int)), None)
    reader = next((key for key in OUTPUT if isinstance(getattr(part, key, None), nn.Linear)), None)
    fused = next((key for key in FUSED if isinstance(getattr(part, key, None), nn.Linear)), None)
    three = next((k for k in SEPARATE if all(isinstance(getattr(part, key, None), nn.Linear) for key in k)), None)
    if attribute is None or reader is None or (fused is None and three is None):
        return None
    prefix = f"{name}." if name else ""
    makers = ((f"{prefix}{fused}", 3),) if fused else tuple((f"{prefix}{key}", 1) for key in three or ())
    return AttentionHeads(name, int(getattr(part, attribute)), attribute, makers, f"{prefix}{reader}")


def _write(part: nn.Module, attention: AttentionHeads, heads: int) -> None:
    setattr(part, attention.attribute, heads)
    for key in WIDTHS:
        if isinstance(getattr(part, key, None), int):
            setattr(part, key, getattr(part, key) // attention.heads * heads)
