"""Shapes inside rules: sizes that are known become constants, the rest is asked of the graph at run time."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.errors import GraphError
from sparsense.graph.build import Builder


def dims(value: ir.Value) -> list[Any]:
    """The sizes of a value: integers where known, symbols where free.

    Raises:
        GraphError: The rank is unknown.
    """
    if value.shape is None:
        raise GraphError(
            f"differentiating the graph: expected a known rank, found none for value {value.name!r}; "
            "export the model with shapes that can be inferred"
        )
    return list(value.shape)


def rank(value: ir.Value) -> int:
    """The number of axes."""
    return len(dims(value))


def all_known(sizes: Sequence[Any]) -> bool:
    """Whether every size is a number."""
    return all(isinstance(size, int) for size in sizes)


def dtype_of(value: ir.Value) -> np.dtype[Any]:
    """The numpy type of a value."""
    return np.dtype((value.dtype or ir.DataType.FLOAT).numpy())


def shape_like(op: Builder, value: ir.Value) -> Any:
    """The shape of a value as an operand of Reshape: constant when at most one size is free."""
    sizes = dims(value)
    if sum(not isinstance(size, int) for size in sizes) <= 1 and 0 not in sizes:
        return [size if isinstance(size, int) else -1 for size in sizes]
    return op.Shape(value)


def sizes_of(op: Builder, value: ir.Value, axes: Sequence[int]) -> Any:
    """The sizes along some axes, as a list where all are known, else as an int64 vector of the graph."""
    known = [dims(value)[axis] for axis in axes]
    return known if all_known(known) else op.Gather(op.Shape(value), list(axes))


def count_along(op: Builder, value: ir.Value, axes: Sequence[int]) -> Any:
    """The number of elements along some axes: a number where known, else a scalar of the value's type."""
    sizes = sizes_of(op, value, axes)
    if isinstance(sizes, list):
        return float(prod(sizes))
    return op.Cast(op.ReduceProd(sizes, keepdims=0), to=int(value.dtype or ir.DataType.FLOAT))


def filled_like(op: Builder, value: ir.Value, number: float) -> ir.Value:
    """One number everywhere, shaped like a value."""
    filler = np.asarray(number, dtype_of(value))
    sizes = dims(value)
    filled = op.Expand(filler, sizes if all_known(sizes) else op.Shape(value))
    filled.shape = value.shape
    return filled


def zeros_like(op: Builder, value: ir.Value) -> ir.Value:
    """Zeros shaped like a value."""
    return filled_like(op, value, 0.0)


def ones_like(op: Builder, value: ir.Value) -> ir.Value:
    """Ones shaped like a value."""
    return filled_like(op, value, 1.0)


def expand_like(op: Builder, delta: ir.Value, value: ir.Value) -> ir.Value:
    """Repeat a gradient along the axes where it has size 1 and the value does not; ranks are equal."""
    target, present = dims(value), dims(delta)
    if all(isinstance(t, int) or p != 1 for t, p in zip(target, present, strict=True)):
        expanded = op.Expand(delta, [t if isinstance(t, int) else 1 for t in target])
    else:
        expanded = op.Expand(delta, op.Shape(value))
    expanded.shape = value.shape
    return expanded


def unbroadcast(op: Builder, delta: ir.Value, value: ir.Value) -> ir.Value:
    """Sum a gradient over the axes along which its value was repeated to meet the other operand."""
    target, present = dims(value), dims(delta)
    extra = len(present) - len(target)
    repeated = [extra + i for i, size in enumerate(target) if size == 1 and present[extra + i] != 1]
    if repeated:
        delta = op.ReduceSum(delta, repeated, keepdims=1)
    return op.ReduceSum(delta, list(range(extra)), keepdims=0) if extra else delta


def pad_or_crop(
    op: Builder, value: ir.Value, axes: Sequence[int], begins: Sequence[int], ends: Sequence[int]
) -> ir.Value:
    """Zeros put around a value along some axes, or, where a number is negative, elements cut off."""
    if min(*begins, *ends) < 0:
        starts = [max(-begin, 0) for begin in begins]
        stops = [end if end < 0 else np.iinfo(np.int64).max for end in ends]
        value = op.Slice(value, starts, stops, list(axes))
    if max(*begins, *ends) > 0:
        # all axes are written out: ONNX Runtime moves a Transpose through a Pad without looking at its `axes` input
        pads = np.zeros((2, rank(value)), np.int64)
        pads[:, list(axes)] = np.maximum([list(begins), list(ends)], 0)
        value = op.Pad(value, pads.reshape(-1))
    return value


def as_mask(op: Builder, condition: ir.Value, like: ir.Value) -> ir.Value:
    """1 where a condition holds, else 0, in the type of a value."""
    return op.Cast(condition, to=int(like.dtype or ir.DataType.FLOAT))


def broadcast_channels(op: Builder, vector: ir.Value, like: ir.Value) -> ir.Value:
    """A per-channel vector `[C]` with trailing axes, so that it meets `[N, C, *P]`."""
    return op.Unsqueeze(vector, list(range(1, rank(like) - 1))) if rank(like) > 2 else vector


def permutation_inverse(perm: Sequence[int]) -> list[int]:
    """The permutation that undoes another.

    Example:
        >>> permutation_inverse([2, 0, 1])
        [1, 2, 0]
    """
    return [list(perm).index(axis) for axis in range(len(perm))]


def last_axis_order(axis: int, size: int) -> list[int]:
    """The permutation that moves one axis to the end.

    Example:
        >>> last_axis_order(1, 4)
        [0, 2, 3, 1]
    """
    return [*(other for other in range(size) if other != axis), axis]
