"""Cases of normalisations."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
import torch.nn.functional as F

from rule_cases.case import Case, Draw, case


@case("BatchNormalization")
def batch_norm(draw: Draw) -> Case:
    channels = draw.int(1, 3)
    x = draw.array(draw.int(1, 3), channels, *(draw.int(1, 3) for _ in range(draw.int(0, 3))))
    scale, bias, mean = (draw.array(channels) for _ in range(3))
    variance = draw.array(channels, low=0.3)
    s, b, m, v = map(torch.tensor, (scale, bias, mean, variance))
    return Case(
        [x],
        lambda op, x: op.BatchNormalization(x, scale, bias, mean, variance, epsilon=0.01),
        lambda x: F.batch_norm(x, m, v, s, b, eps=np.float32(0.01).item()),
    )


@case("LayerNormalization")
def layer_norm(draw: Draw) -> Case:
    shape = (*draw.shape(1, 3), 4)
    axis = draw.int(0, len(shape) - 1)
    draw.free = draw.free and axis > 0
    inputs = [draw.array(*shape), *(draw.array(*shape[axis:]) for _ in range(draw.int(1, 2)))]
    written = axis - draw.choose(0, len(shape))
    return Case(
        inputs,
        lambda op, *xs: op.LayerNormalization(*xs, axis=written, epsilon=0.01),
        lambda x, s, b=None: F.layer_norm(x, x.shape[axis:], s, b, eps=np.float32(0.01).item()),
    )


@case("RMSNormalization")
def rms_norm(draw: Draw) -> Case:
    draw.opset(23)
    shape = (*draw.shape(1, 3), 4)
    axis = draw.int(1, len(shape) - 1)
    return Case(
        [draw.array(*shape), draw.array(*shape[axis:])],
        lambda op, x, s: op.RMSNormalization(x, s, axis=axis, epsilon=0.01),
        lambda x, s: F.rms_norm(x, x.shape[axis:], s, eps=np.float32(0.01).item()),
    )


@case("InstanceNormalization")
def instance_norm(draw: Draw) -> Case:
    channels = draw.int(1, 3)
    x = draw.array(draw.int(1, 2), channels, 4, *(draw.int(1, 3) for _ in range(draw.int(0, 2))))
    return Case(
        [x, draw.array(channels), draw.array(channels)],
        lambda op, x, s, b: op.InstanceNormalization(x, s, b, epsilon=0.01),
        lambda x, s, b: F.instance_norm(x, weight=s, bias=b, eps=np.float32(0.01).item()),
    )


@case("GroupNormalization")
def group_norm(draw: Draw) -> Case:
    draw.single()
    draw.opset(21)  # older versions are withdrawn
    groups, each = draw.int(1, 3), draw.int(1, 3)
    channels = groups * each
    x = draw.array(draw.int(1, 2), channels, 3, *(draw.int(1, 3) for _ in range(draw.int(0, 1))))
    return Case(
        [x, draw.array(channels), draw.array(channels)],
        lambda op, x, s, b: op.GroupNormalization(x, s, b, num_groups=groups, epsilon=0.01),
        lambda x, s, b: F.group_norm(x, groups, s, b, eps=np.float32(0.01).item()),
    )


@case("LpNormalization")
def lp_normalisation(draw: Draw) -> Case:
    shape, p = draw.shape(), draw.int(1, 2)
    axis = draw.int(-len(shape), len(shape) - 1)
    return Case(
        [draw.array(*shape)],
        lambda op, x: op.LpNormalization(x, axis=axis, p=p),
        lambda x: x / x.abs().pow(p).sum(axis, keepdim=True).pow(1 / p),
    )


@case("LRN")
def local_response(draw: Draw) -> Case:
    draw.single()
    channels, size = draw.int(1, 6), draw.choose(1, 3, 5)
    x = draw.array(draw.int(1, 2), channels, *(draw.int(1, 3) for _ in range(2)))

    def function(x: torch.Tensor) -> torch.Tensor:
        squares = F.pad(x.square().flatten(2).transpose(1, 2), [(size - 1) // 2, size // 2])
        total = squares.unfold(2, size, 1).sum(-1).transpose(1, 2).reshape(x.shape)
        return x / (2.0 + 0.5 / size * total) ** 0.75

    assert prod(x.shape)
    return Case([x], lambda op, x: op.LRN(x, size=size, alpha=0.5, beta=0.75, bias=2.0), function)
