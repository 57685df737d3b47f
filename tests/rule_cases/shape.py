"""Cases of operators that only move elements."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
import torch.nn.functional as F

from rule_cases.case import Case, Draw, case


@case("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshapes(draw: Draw) -> Case:
    shape = draw.shape(2)
    axis = draw.int(0, len(shape) - 1)
    x = draw.array(*shape)

    def graph(op, x):
        y = op.Unsqueeze(op.Flatten(x, axis=axis), [0, -1])
        y = op.Squeeze(op.Mul(y, y), [0])
        z = op.Reshape(y, [-1])
        return op.Mul(z, op.Reshape(x, op.Shape(z)))

    def function(x):
        return x.flatten() ** 3

    assert prod(shape)
    return Case([x], graph, function)


@case("Transpose")
def transpose(draw: Draw) -> Case:
    shape = draw.shape()
    perm = draw.permutation(len(shape))
    attributes = draw.choose({"perm": perm}, {})
    order = perm if attributes else list(range(len(shape)))[::-1]
    return Case(
        [draw.array(*shape)], lambda op, x: op.Transpose(op.Exp(x), **attributes), lambda x: x.exp().permute(order)
    )


@case("Concat")
def concat(draw: Draw) -> Case:
    """Values side by side, one of them twice; along the free axis too."""
    shape = draw.shape()
    axis = draw.int(-len(shape), len(shape) - 1)
    own = axis % len(shape)
    widths = [draw.int(1, 3) for _ in range(draw.int(1, 3))]
    inputs = [draw.array(*shape[:own], width, *shape[own + 1 :]) for width in widths]
    draw.free = draw.free and own == 0 and len(set(widths)) == 1
    return Case(
        inputs,
        lambda op, *xs: op.Concat(*xs, op.Mul(xs[0], xs[0]), axis=axis),
        lambda *xs: torch.cat([*xs, xs[0] ** 2], axis),
    )


@case("Split")
def split(draw: Draw) -> Case:
    """Several parts, of which the first is not used."""
    sizes = [draw.int(1, 3) for _ in range(3)]
    x = draw.array(2, sum(sizes), 2)
    given = draw.choose(True, False)
    if not given:
        sizes = [2, 2, 2]
        x = draw.array(2, 6, 2)

    def graph(op, x):
        parts = (
            op.call("Split", x, sizes, axis=1, outputs=3)
            if given
            else op.call("Split", x, axis=1, num_outputs=3, outputs=3)
        )
        return op.Concat(op.Mul(parts[2], 3.0), op.Exp(parts[1]), axis=1)

    def function(x):
        _, middle, last = x.split(sizes, 1)
        return torch.cat([3 * last, middle.exp()], 1)

    return Case([x], graph, function)


@case("DepthToSpace", "SpaceToDepth")
def depth_and_space(draw: Draw) -> Case:
    block, c, h, w = draw.int(1, 3), draw.int(1, 2), draw.int(1, 2), draw.int(1, 2)
    x = draw.array(2, c * block**2, h, w)
    mode = draw.choose("DCR", "CRD")

    def function(x):
        if mode == "DCR":
            x = x.reshape(2, block**2, c, h, w).transpose(1, 2).reshape(x.shape)
        wide = F.pixel_shuffle(x, block) ** 2
        # space to depth: the block's position comes before the channel
        split = wide.reshape(2, c, h, block, w, block).permute(0, 3, 5, 1, 2, 4)
        return split.reshape(2, block**2 * c, h, w)

    def graph(op, x):
        wide = op.DepthToSpace(x, blocksize=block, mode=mode)
        return op.SpaceToDepth(op.Mul(wide, wide), blocksize=block)

    return Case([x], graph, function)


@case("Trilu")
def trilu(draw: Draw) -> Case:
    k, upper = draw.int(-2, 2), draw.int(0, 1)
    return Case(
        [draw.array(2, 3, 4)],
        lambda op, x: op.Trilu(op.Exp(x), np.asarray(k), upper=upper),
        lambda x: x.exp().triu(k) if upper else x.exp().tril(k),
    )


@case("CumSum")
def cumsum(draw: Draw) -> Case:
    axis, exclusive, reverse = draw.int(-2, 1), draw.int(0, 1), draw.int(0, 1)

    def function(x):
        y = x.exp()
        y = y.flip(axis) if reverse else y
        y = y.cumsum(axis) - (y if exclusive else 0)
        return y.flip(axis) if reverse else y

    x = draw.array(3, 4)
    return Case(
        [x], lambda op, x: op.CumSum(op.Exp(x), np.asarray(axis), exclusive=exclusive, reverse=reverse), function
    )


@case("ReverseSequence")
def reverse_sequence(draw: Draw) -> Case:
    lengths = [draw.int(1, 4) for _ in range(3)]

    def function(x):
        rows = [torch.cat([row[:n].flip(0), row[n:]]) for row, n in zip(x, lengths, strict=True)]
        return torch.stack(rows).exp()

    x = draw.array(3, 4, 2)
    return Case([x], lambda op, x: op.Exp(op.ReverseSequence(x, lengths, batch_axis=0, time_axis=1)), function)
