"""The gradient of every sample with respect to every prunable weight, a layer and a chunk at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from copy import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from sparsense.recording.capture import Capture
from sparsense.recording.layers import weight_of

CHUNK_NUMBERS = 2**24
"""At most this many numbers of per-sample gradients are in memory at once (64 MiB in float32)."""


def weight_gradient(layer: nn.Module, inputs: Tensor, delta: Tensor) -> Tensor:
    """The gradient of a layer's weight for one batch, from the layer's input and its output's gradient."""
    weight, bare = weight_of(layer).detach(), _without_hooks(layer)
    pull_back = vjp(lambda w: functional_call(bare, {"weight": w}, (inputs,)), weight)[1]
    gradient: Tensor = pull_back(delta)[0]
    return gradient


def per_sample_weight_gradients(
    layer: nn.Module, inputs: list[Tensor], deltas: list[Tensor]
) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of per-sample gradients `[chunk, *weight.shape]`, with the rows of the batch they belong to.

    The calls of a shared layer are summed, sample by sample. Bounded by `CHUNK_NUMBERS`.
    """
    batch, chunk = len(inputs[0]), max(1, CHUNK_NUMBERS // weight_of(layer).numel())

    def one_sample(x: Tensor, d: Tensor) -> Tensor:
        return weight_gradient(layer, x[None], d[None])

    for start in range(0, batch, chunk):
        rows = slice(start, min(start + chunk, batch))
        parts = [vmap(one_sample)(x[rows], d[rows]) for x, d in zip(inputs, deltas, strict=True)]
        yield rows, torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def _without_hooks(layer: nn.Module) -> nn.Module:
    bare = copy(layer)
    for table in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        bare.__dict__[table] = OrderedDict()
    return bare


def rows_are_samples(capture: Capture, layers: Mapping[str, nn.Module], losses: Tensor) -> bool:
    """Whether row i of every captured output belongs to sample i alone, and layers use their own weights.

    True for networks whose layers see `[N, ...]`; false for those that fold other axes into the first one,
    put the batch elsewhere, mix samples, or use a weight without calling its layer.
    """
    batch = len(losses)
    if set(capture.outputs) != set(layers):
        return False
    captured = [tensor for table in (capture.inputs, capture.outputs) for ts in table.values() for tensor in ts]
    if any(tensor.ndim < 2 or len(tensor) != batch for tensor in captured):
        return False
    outputs = [tensor for tensors in capture.outputs.values() for tensor in tensors]
    first = torch.autograd.grad(losses[0], outputs, retain_graph=True, allow_unused=True)
    return all(delta is None or not bool(delta[1:].any()) for delta in first)
