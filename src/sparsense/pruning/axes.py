"""Where the channels of every kind of layer lie: which tensors, which axes, which attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsense.recording.layers import TRANSPOSED


class Axis(NamedTuple):
    """One axis of one tensor of a layer.

    Its size may be a multiple of the number of channels (query, key and value one after another) or, for
    grouped convolutions, a fraction of it (every block keeps the same positions).
    """

    tensor: str
    dim: int


Axes = Callable[[nn.Module, str], list[Axis]]

CONVOLUTION = nn.modules.conv._ConvNd
BATCH_NORM = nn.modules.batchnorm._BatchNorm
INSTANCE_NORM = nn.modules.instancenorm._InstanceNorm
STATISTICS_OVER_CHANNELS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


def treats_alike(layer: nn.Module) -> bool:
    """A layer whose one parameter is for all channels, so it has no channels of its own."""
    return isinstance(layer, nn.PReLU) and layer.num_parameters == 1


def is_depthwise(layer: nn.Module) -> bool:
    """A convolution in which every channel is alone."""
    return isinstance(layer, CONVOLUTION) and layer.groups == layer.out_channels == layer.in_channels > 1


def channels(layer: nn.Module, side: str) -> int:
    """How many channels a layer has on one side."""
    names = ATTRIBUTES[kind_of(layer)]
    name = names[1] if len(names) == 2 and side == "out" else names[0]
    value = getattr(layer, name)
    return int(value[-1]) if isinstance(value, tuple) else int(value)


def axes_of(layer: nn.Module, side: str) -> list[Axis]:
    """The axes along which a layer is cut when channels of one side go; only tensors that it has."""
    found = AXES[kind_of(layer)](layer, side)
    return [axis for axis in found if isinstance(tensor_of(layer, axis.tensor), Tensor)]


def tensor_of(layer: nn.Module, path: str) -> object:
    """A parameter or buffer by its dotted path inside the layer; None when it is not there."""
    owner, _, name = path.rpartition(".")
    return getattr(layer.get_submodule(owner), name, None)


def along(flags: Tensor, size: int) -> Tensor:
    """Flags per channel as flags along an axis of another size: repeated, or those of the first block."""
    return flags.repeat(size // len(flags)) if size >= len(flags) else flags[:size]


def resize(layer: nn.Module, side: str, count: int) -> None:
    """Write the new number of channels into the layer's attributes."""
    names = ATTRIBUTES[kind_of(layer)]
    if len(names) == 2:
        names = (names[0],) if side == "in" else (names[1],)
    for name in names:
        old = getattr(layer, name)
        setattr(layer, name, (*old[:-1], count) if isinstance(old, tuple) else count)
    if isinstance(layer, nn.MultiheadAttention):
        layer.head_dim = count // layer.num_heads
        layer.out_proj.in_features = layer.out_proj.out_features = count


def kind_of(layer: nn.Module) -> str | None:
    """The name of the row of the tables below that a layer belongs to; None when it cannot be cut."""
    if is_depthwise(layer):
        return "depthwise"
    return next((kind for kind, types in KINDS.items() if isinstance(layer, types)), None)


KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "convolution": (CONVOLUTION,),
    "linear": (nn.Linear,),
    "channelwise": (BATCH_NORM, INSTANCE_NORM),
    "group_norm": (nn.GroupNorm,),
    "last_axis_norm": (nn.LayerNorm, nn.RMSNorm),
    "prelu": (nn.PReLU,),
    "embedding": (nn.Embedding,),
    "attention": (nn.MultiheadAttention,),
}
ATTRIBUTES: dict[str | None, tuple[str, ...]] = {
    "convolution": ("in_channels", "out_channels"),
    "depthwise": ("in_channels", "out_channels", "groups"),
    "linear": ("in_features", "out_features"),
    "channelwise": ("num_features",),
    "group_norm": ("num_channels",),
    "last_axis_norm": ("normalized_shape",),
    "prelu": ("num_parameters",),
    "embedding": ("embedding_dim",),
    "attention": ("embed_dim", "kdim", "vdim"),
}


def _convolution(layer: nn.Module, side: str) -> list[Axis]:
    out_dim = 1 if isinstance(layer, TRANSPOSED) else 0
    return [Axis("weight", out_dim), Axis("bias", 0)] if side == "out" else [Axis("weight", 1 - out_dim)]


def _linear(_layer: nn.Module, side: str) -> list[Axis]:
    return [Axis("weight", 0), Axis("bias", 0)] if side == "out" else [Axis("weight", 1)]


def _first(_layer: nn.Module, _side: str) -> list[Axis]:
    return [Axis(name, 0) for name in ("weight", "bias", "running_mean", "running_var")]


def _attention(_layer: nn.Module, _side: str) -> list[Axis]:
    return [
        Axis("in_proj_weight", 0), Axis("in_proj_weight", 1), Axis("in_proj_bias", 0), Axis("bias_k", 2),
        Axis("bias_v", 2), Axis("out_proj.weight", 0), Axis("out_proj.weight", 1), Axis("out_proj.bias", 0),
    ]  # fmt: skip


AXES: dict[str | None, Axes] = {
    "convolution": _convolution,
    "depthwise": _first,
    "linear": _linear,
    "channelwise": _first,
    "group_norm": _first,
    "last_axis_norm": _first,
    "prelu": _first,
    "embedding": lambda _layer, _side: [Axis("weight", 1)],
    "attention": _attention,
}


def blocks(layer: nn.Module) -> int:
    """In how many blocks a layer's channels lie, each of which must lose the same positions."""
    if isinstance(layer, CONVOLUTION) and not is_depthwise(layer):
        return int(layer.groups)
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups
    return layer.num_heads if isinstance(layer, nn.MultiheadAttention) else 1


def why_not(layer: nn.Module) -> str:
    """Why a layer cannot be cut, "" when it can."""
    if kind_of(layer) is None:
        return "there is no rule for cutting layers of this type"
    if parametrize.is_parametrized(layer):
        tensors = ", ".join(layer.parametrizations)  # type: ignore[arg-type]
        return (
            f"its {tensors} is computed by a parametrisation; fix it first with "
            "torch.nn.utils.parametrize.remove_parametrizations(layer, name)"
        )
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm) and len(layer.normalized_shape) != 1:
        return f"it normalises over several axes, {tuple(layer.normalized_shape)}"
    if isinstance(layer, nn.MultiheadAttention) and not layer._qkv_same_embed_dim:
        return "its keys or values have another width than its queries"
    if isinstance(layer, CONVOLUTION) and layer.groups == layer.out_channels != layer.in_channels > 1 < layer.groups:
        return "it has as many groups as outputs and several inputs per group"
    return ""
