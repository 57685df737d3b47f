"""Cases of picking, repeating and placing elements."""

from __future__ import annotations

import numpy as np
import torch

from rule_cases.case import Case, Draw, case


@case("Slice")
def slices(draw: Draw) -> Case:
    """Any start, end and step on some axes, also along the free axis."""
    shape = [draw.int(1, 6) for _ in range(3)]
    axes = sorted(draw.permutation(3)[: draw.int(1, 3)])
    steps = [draw.choose(1, 1, 2, 3, -1, -2) for _ in axes]
    starts, ends = [], []
    for axis, step in zip(axes, steps, strict=True):
        first, last = draw.int(0, shape[axis] - 1), draw.int(0, shape[axis] - 1)
        low, high = min(first, last), max(first, last)
        far = np.iinfo(np.int64).max
        starts.append(low - draw.choose(0, shape[axis]) if step > 0 else draw.choose(high, far))
        ends.append(draw.choose(high + 1, far) if step > 0 else (low - 1 if low else -far))
    where = [slice(None)] * 3
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        where[axis] = slice(start, end, step)
    x = draw.array(*shape)
    chosen = [torch.tensor(np.arange(size)[w].copy()) for size, w in zip(shape, where, strict=True)]

    def function(x):
        for axis, index in enumerate(chosen):
            x = x.index_select(axis, index)
        return x.exp()

    return Case([x], lambda op, x: op.Exp(op.Slice(x, starts, ends, axes, steps)), function)


@case("Slice")
def slice_to_a_computed_end(draw: Draw) -> Case:
    """What exporters write for x[:, :, : y.shape[2]]."""
    wide, narrow = draw.int(2, 5), draw.int(1, 2)

    def graph(op, x, y):
        return op.Mul(op.Slice(x, [0], op.Shape(y, start=2, end=3), [2]), y)

    return Case([draw.array(2, 3, wide), draw.array(2, 3, narrow)], graph, lambda x, y: x[:, :, :narrow] * y)


@case("Gather")
def gather(draw: Draw) -> Case:
    """A scalar, a list, a matrix of indices; repeated ones, negative ones; along the free axis."""
    shape = [draw.int(1, 4) for _ in range(draw.int(1, 3))]
    axis = draw.int(-len(shape), len(shape) - 1)
    size = shape[axis]
    into = draw.choose((), (1,), (3,), (2, 2))
    index = np.asarray([draw.int(-size, size - 1) for _ in range(int(np.prod(into)))], np.int64).reshape(into)
    own = axis % len(shape)

    def function(x):
        picked = x.index_select(own, torch.tensor(index.reshape(-1) % size))
        return picked.reshape((*shape[:own], *into, *shape[own + 1 :])).exp()

    return Case([draw.array(*shape)], lambda op, x: op.Exp(op.Gather(x, index, axis=axis)), function)


@case("Gather")
def gather_at_run_time(draw: Draw) -> Case:
    """Indices that the graph computes: here the order of another value."""
    x = draw.array(3, 4)

    def graph(op, x):
        _, order = op.call("TopK", op.ReduceMean(x, [0], keepdims=0), [3], outputs=2)
        return op.Exp(op.Gather(x, order, axis=1))

    return Case([x], graph, lambda x: x[:, x.mean(0).topk(3).indices].exp())


@case("GatherElements")
def gather_elements(draw: Draw) -> Case:
    x = draw.array(3, 4)
    axis = draw.int(-2, 1)
    rows, columns = draw.int(1, 3), draw.int(1, 4)
    size = x.shape[axis]
    index = np.asarray([[draw.int(-size, size - 1) for _ in range(columns)] for _ in range(rows)], np.int64)
    draw.free = False
    taken = torch.tensor(index % size)
    return Case(
        [x], lambda op, x: op.Exp(op.GatherElements(x, index, axis=axis)), lambda x: x.gather(axis, taken).exp()
    )


@case("GatherND")
def gather_nd(draw: Draw) -> Case:
    batch = draw.int(0, 1)
    x = draw.array(2, 3, 4)
    draw.free = False
    if batch:
        index = np.asarray([[[draw.int(0, 2)] for _ in range(2)] for _ in range(2)], np.int64)
    else:
        index = np.asarray([[draw.int(0, 1), draw.int(0, 2)] for _ in range(4)], np.int64)

    def function(x):
        if batch:
            return torch.stack([x[n][index[n, :, 0]] for n in range(2)]).exp()
        return x[index[:, 0], index[:, 1]].exp()

    return Case([x], lambda op, x: op.Exp(op.GatherND(x, index, batch_dims=batch)), function)


@case("ScatterElements")
def scatter_elements(draw: Draw) -> Case:
    index = np.asarray([[0, 2, 1], [2, 0, 1]])
    added = draw.choose("none", "add")
    if added == "add":
        index[0] = 1
    draw.free = False

    def function(x, u):
        i = torch.tensor(index)
        return (x.scatter(1, i, u) if added == "none" else x.scatter_add(1, i, u)).exp()

    return Case(
        [draw.array(2, 4), draw.array(2, 3)],
        lambda op, x, u: op.Exp(op.ScatterElements(x, index, u, axis=1, reduction=added)),
        function,
    )


@case("ScatterND")
def scatter_nd(draw: Draw) -> Case:
    added = draw.choose("none", "add")
    index = np.asarray([[0, 1], [1, 1] if added == "none" else [0, 1]])
    draw.free = False

    def function(x, u):
        where = (torch.tensor(index[:, 0]), torch.tensor(index[:, 1]))
        return x.index_put(where, u, accumulate=added == "add").exp()

    return Case(
        [draw.array(2, 3, 2), draw.array(2, 2)],
        lambda op, x, u: op.Exp(op.ScatterND(x, index, u, reduction=added)),
        function,
    )


@case("TopK")
def top_k(draw: Draw) -> Case:
    k, largest, axis = draw.int(1, 3), draw.int(0, 1), draw.int(-2, 1)
    x = draw.array(3, 4)
    return Case(
        [x],
        lambda op, x: op.Exp(op.call("TopK", x, [k], outputs=2, axis=axis, largest=largest)[0]),
        lambda x: x.topk(k, axis, bool(largest)).values.exp(),
    )


@case("Expand")
def expand(draw: Draw) -> Case:
    full = draw.shape(1)
    own = tuple(draw.choose(size, 1) for size in full)[draw.int(0, len(full) - 1) :]
    draw.free = False
    target = list(full)
    return Case([draw.array(*own)], lambda op, x: op.Exp(op.Expand(x, target)), lambda x: x.expand(*full).exp())


@case("Tile")
def tile(draw: Draw) -> Case:
    shape = draw.shape()
    repeats = [draw.int(1, 3) for _ in shape]
    return Case([draw.array(*shape)], lambda op, x: op.Exp(op.Tile(x, repeats)), lambda x: x.repeat(repeats).exp())
