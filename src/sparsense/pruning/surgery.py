"""Removing channels from a network, and masking the same channels instead."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import sqrt

import torch
from torch import Tensor, nn

from sparsense.pruning.axes import STATISTICS_OVER_CHANNELS, Axis, along, axes_of, resize, tensor_of
from sparsense.pruning.groups import Removal, Side
from sparsense.recording.state import copy_of, first_input

Hook = Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor], Tensor]


def cut_(module: nn.Module, removal: Removal) -> None:
    """Remove channels from the tensors of a network, in place; parameters keep their `requires_grad`.

    Gradients and optimisers that held the old parameters are void afterwards.
    """
    for side, axis, owner, tensor in places(module, removal):
        keep = (~along(removal[side], tensor.shape[axis.dim])).nonzero().flatten().to(tensor.device)
        replace_tensor(owner, axis.tensor, tensor.detach().index_select(axis.dim, keep).contiguous())
    for side, gone in removal.items():
        owner = owner_of(module, side.layer)
        if isinstance(owner, nn.MultiheadAttention) and not is_bare(module, side.layer):
            _keep_scale(owner, int((~gone).sum()))
        set_width(module, side, int((~gone).sum()))
    for part in module.modules():
        if isinstance(part, nn.Unflatten):
            _follow_width(part)


@torch.no_grad()
def mask_(module: nn.Module, removal: Removal) -> None:
    """Set to zero, in place, everything that `cut_` would remove.

    Layers whose statistics run over the channels (layer norm, group norm, root mean square norm) count the
    remaining channels only: a hook recomputes them, as the removed channels would still be in the mean.
    """
    for side, axis, _, tensor in places(module, removal):
        gone = along(removal[side], tensor.shape[axis.dim]).nonzero().flatten().to(tensor.device)
        tensor.index_fill_(axis.dim, gone, 0)
    for side, gone in removal.items():
        if norms_over_channels(module, side.layer):
            norm = owner_of(module, side.layer)
            norm.register_forward_hook(_norm_of_the_kept(norm, gone), with_kwargs=True)


def norms_over_channels(module: nn.Module, name: str) -> bool:
    """Whether a layer's statistics run over its channels."""
    return isinstance(owner_of(module, name), STATISTICS_OVER_CHANNELS)


def set_width(module: nn.Module, side: Side, count: int) -> None:
    """Write a new number of channels into the attributes of the layer on that side."""
    owner = owner_of(module, side.layer)
    if not is_bare(module, side.layer):
        resize(owner, side.side, count)
    elif isinstance(owner, nn.RMSNorm):
        owner.normalized_shape = (count,)


def is_bare(module: nn.Module, name: str) -> bool:
    """Whether a name means a parameter that belongs to no layer with a rule, and not a layer."""
    part: object = module
    for step in name.split(".") if name else ():
        part = getattr(part, step, None)
    return not isinstance(part, nn.Module)


def owner_of(module: nn.Module, name: str) -> nn.Module:
    """The layer of that name, or the module that holds the parameter of that name."""
    return module.get_submodule(name.rpartition(".")[0] if is_bare(module, name) else name)


def bare_axis(parameter: Tensor) -> int:
    """The axis of a bare parameter that holds channels: the last one that is longer than 1."""
    return max((axis for axis, size in enumerate(parameter.shape) if size > 1), default=0)


def places(module: nn.Module, sides: Iterable[Side]) -> Iterator[tuple[Side, Axis, nn.Module, Tensor]]:
    """Every axis of every tensor along which channels of the given sides lie, with the layer that has it."""
    for side in sides:
        owner = owner_of(module, side.layer)
        for axis in _axes(module, side):
            tensor = tensor_of(owner, axis.tensor)
            if isinstance(tensor, Tensor):
                yield side, axis, owner, tensor


def _axes(module: nn.Module, side: Side) -> list[Axis]:
    owner = owner_of(module, side.layer)
    if not is_bare(module, side.layer):
        return axes_of(owner, side.side)
    name = side.layer.rpartition(".")[2]
    return [Axis(name, bare_axis(owner.get_parameter(name)))]


def replace_tensor(owner: nn.Module, path: str, tensor: Tensor) -> None:
    """Put a tensor in the place of a parameter or buffer; a parameter keeps its `requires_grad`."""
    parent, _, name = path.rpartition(".")
    holder = owner.get_submodule(parent)
    old = getattr(holder, name)
    new = nn.Parameter(tensor, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else tensor
    setattr(holder, name, new)


@torch.no_grad()
def _keep_scale(attention: nn.MultiheadAttention, width: int) -> None:
    # Attention divides by the root of the head's width; the queries make up for the smaller width.
    assert attention.in_proj_weight is not None
    factor = sqrt(width / attention.embed_dim)
    attention.in_proj_weight[:width] *= factor
    if attention.in_proj_bias is not None:
        attention.in_proj_bias[:width] *= factor


def _follow_width(unflatten: nn.Unflatten) -> None:
    # The number of channels is what the other sizes leave; written as a number it would still be the one before.
    first, *others = unflatten.unflattened_size
    if unflatten.dim == 1 and isinstance(first, int) and -1 not in (first, *others):
        unflatten.unflattened_size = (-1, *others)


def _norm_of_the_kept(norm: nn.Module, gone: Tensor) -> Hook:
    """A hook after which a norm has counted the kept channels alone, and gives zero for the others."""
    smaller, kept = copy_of(norm), (~gone).nonzero().flatten()
    cut_(smaller, {Side("", "out"): gone})

    def hook(norm: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> Tensor:
        x = first_input(args, kwargs)
        axis = _channel_axis(norm, x)
        part = smaller.to(x.dtype).forward(x.index_select(axis, kept))
        return torch.zeros_like(output).index_copy(axis, kept, part)

    return hook


def _channel_axis(norm: nn.Module, x: Tensor) -> int:
    """The axis that a norm's channels lie along: a layer norm of somebody else's may count those of images."""
    if isinstance(norm, nn.GroupNorm) or x.ndim < 3:
        return 1
    probe = torch.zeros_like(x)
    probe[(0,) * x.ndim] = 1
    moved = (norm.forward(probe) != norm.forward(torch.zeros_like(x)))[0].nonzero().amax(0)
    return 1 if int(moved[0]) > 0 else x.ndim - 1
