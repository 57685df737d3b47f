"""Operators that pick, repeat or place elements; their gradients are placed, summed or picked in turn."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff.rule import Call, vjp
from sparsense.autodiff.shapes import dims, pad_or_crop, rank, zeros_like
from sparsense.graph.build import Builder


def place(op: Builder, d: ir.Value, indices: Any, like: ir.Value, axis: int) -> ir.Value:
    """Zeros sized like a value along one axis, with the slices of `d` added at the given indices.

    Args:
        op: Builder.
        d: What is placed; `like` is sized as `d` on the other axes, or will be.
        indices: One per slice of `d`: a vector of the graph, or numpy where known.
        like: Gives the size of the axis.
        axis: Non-negative.
    """
    size = dims(like)[axis]
    if isinstance(indices, np.ndarray) and isinstance(size, int):
        indices = np.where(indices < 0, indices + size, indices)
        if (np.diff(indices) == 1).all() and len(indices):
            return pad_or_crop(op, d, [axis], [int(indices[0])], [size - 1 - int(indices[-1])])
        if len(set(indices.tolist())) == len(indices):
            return _gather_back(op, d, indices, size, axis)
    return _scatter(op, d, indices, like, axis)


def _gather_back(op: Builder, d: ir.Value, indices: NDArray[Any], size: int, axis: int) -> ir.Value:
    """Every position of the result takes its slice, or a slice of zeros put behind the last one."""
    source = np.full(size, len(indices), np.int64)
    source[indices] = np.arange(len(indices))
    complete = len(indices) == size
    return op.Gather(d if complete else pad_or_crop(op, d, [axis], [0], [1]), source, axis=axis)


def _scatter(op: Builder, d: ir.Value, indices: Any, like: ir.Value, axis: int) -> ir.Value:
    """The general form: indices may repeat, sizes may be free."""
    shape = op.Concat(
        op.Shape(d, end=axis), op.Shape(like, start=axis, end=axis + 1), op.Shape(d, start=axis + 1), axis=0
    )
    zeros = op.Expand(np.zeros((), d.dtype.numpy()), shape)  # type: ignore[union-attr]
    zeros.shape = ir.Shape([*dims(d)[:axis], dims(like)[axis], *dims(d)[axis + 1 :]])
    column = op.Reshape(indices, [-1, *[1] * (rank(d) - 1 - axis)])
    everywhere = op.Expand(column, op.Shape(d))
    return op.ScatterElements(zeros, everywhere, d, axis=axis, reduction="add")


def _slice(op: Builder, d: Any, c: Call) -> Any:
    x, starts = c.x[:2]
    count = dims(starts)[0]
    axes = list(range(count)) if c.input(3) is None else [int(axis) % rank(x) for axis in c.constant(3)]
    steps = np.ones(count, np.int64) if c.input(4) is None else c.constant(4)
    for position, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        d = place(op, d, _sliced(op, c, position, axis, int(step)), x, axis)
    return d


def _sliced(op: Builder, c: Call, position: int, axis: int, step: int) -> Any:
    """The indices that a slice takes along one axis."""
    x, starts, ends = c.x[:3]
    size = dims(x)[axis]
    if isinstance(size, int) and starts.const_value is not None and ends.const_value is not None:
        start, end = int(c.constant(1)[position]), int(c.constant(2)[position])
        return np.arange(size)[start:end:step]
    one = [position]
    everything = op.Range(np.asarray(0), op.Squeeze(op.Gather(op.Shape(x), [axis]), [0]), np.asarray(1))
    return op.Slice(everything, op.Gather(starts, one), op.Gather(ends, one), [0], [step])


vjp("Slice", _slice)


def _gather(op: Builder, d: Any, c: Call) -> Any:
    x, indices = c.x
    axis, into = c.attribute("axis", 0) % rank(x), rank(indices)
    if into == 0:
        d = op.Unsqueeze(d, [axis])
    elif into > 1:
        rest = op.Shape(d, start=axis + into)
        d = op.Reshape(d, op.Concat(np.asarray([0] * axis + [-1]), rest, axis=0))
    known = indices.const_value is not None
    return place(op, d, indices.const_value.numpy().reshape(-1) if known else indices, x, axis)


vjp("Gather", _gather)


def _gather_elements(op: Builder, d: Any, c: Call) -> Any:
    return op.ScatterElements(zeros_like(op, c.x[0]), c.x[1], d, axis=c.attribute("axis", 0), reduction="add")


vjp("GatherElements", _gather_elements)


def _gather_nd(op: Builder, d: Any, c: Call) -> Any:
    indices, batch = c.x[1], c.attribute("batch_dims", 0)
    if batch:
        indices = op.Concat(*(_coordinate(op, indices, axis) for axis in range(batch)), indices, axis=-1)
    return op.ScatterND(zeros_like(op, c.x[0]), indices, d, reduction="add")


def _coordinate(op: Builder, indices: ir.Value, axis: int) -> ir.Value:
    """For every index tuple its own position along one axis, [..., 1]."""
    length = op.Squeeze(op.Gather(op.Shape(indices), [axis]), [0])
    column = op.Reshape(op.Range(np.asarray(0), length, np.asarray(1)), [-1, *[1] * (rank(indices) - 1 - axis)])
    coordinates = op.Expand(column, op.Concat(op.Shape(indices, end=-1), np.asarray([1]), axis=0))
    coordinates.shape = ir.Shape([*dims(indices)[:-1], 1])
    return coordinates


vjp("GatherND", _gather_nd)


# data with some elements replaced ("none") or increased ("add") by updates
def _scattered_data(op: Builder, d: Any, c: Call) -> Any:
    if _added(c):
        return d
    attributes = {"axis": c.attribute("axis", 0)} if c.node.op_type == "ScatterElements" else {}
    return op.call(c.node.op_type, d, c.x[1], zeros_like(op, c.x[2]), **attributes)[0]


def _added(c: Call) -> bool:
    reduction = c.attribute("reduction", "none")
    if reduction not in ("none", "add"):
        raise c.refuse(f"combines by {reduction!r}, for which it has no rule")
    return bool(reduction == "add")


def _scattered_elements(op: Builder, d: Any, c: Call) -> Any:
    _added(c)
    return op.GatherElements(d, c.x[1], axis=c.attribute("axis", 0))


def _scattered_slices(op: Builder, d: Any, c: Call) -> Any:
    _added(c)
    return op.GatherND(d, c.x[1])


vjp("ScatterElements", _scattered_data, None, _scattered_elements)
vjp("ScatterND", _scattered_data, None, _scattered_slices)


def _top_k(op: Builder, d: Any, c: Call) -> Any:
    _, indices = op.call("TopK", *c.x, outputs=2, **c.attributes())
    return op.ScatterElements(zeros_like(op, c.x[0]), indices, d, axis=c.attribute("axis", -1))


vjp("TopK", _top_k)
vjp("Expand", lambda op, d, c: d)  # the walk sums over the repeated axes


def _tile(op: Builder, d: Any, c: Call) -> Any:
    """Copies become an axis of their own, which is summed."""
    shape: list[Any] = []
    copies: list[int] = []
    for size, repeats in zip(dims(c.x[0]), c.constant(1).tolist(), strict=True):
        if repeats != 1:
            copies.append(len(shape))
            shape.append(repeats)
        shape.append(size)
    if sum(not isinstance(size, int) for size in shape) > 1:
        raise c.refuse("repeats a value with several free sizes; export it with fixed sizes")
    split = op.Reshape(d, [size if isinstance(size, int) else -1 for size in shape])
    return op.ReduceSum(split, copies, keepdims=0) if copies else d


vjp("Tile", _tile)
