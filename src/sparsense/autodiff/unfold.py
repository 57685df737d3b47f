"""What every output of a convolution saw: shifted views of its input, row of the kernel by row of the kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.rules.window import Axis, Window
from sparsense.autodiff.shapes import all_known, dims, pad_or_crop, rank
from sparsense.graph.build import Builder

Pair = tuple[ir.Value, ir.Value]

PAGE = 1024
"""Rows of a multiple of 4 KiB fall on the same lines of the cache: one more row of zeros keeps matrix products fast."""


@dataclass(frozen=True)
class Patches:
    """Inputs and outputs that one tap of the leading kernel axes brings together.

    Attributes:
        tap: Its index, counted over the leading kernel axes.
        x: Inputs, [N, g, last * I/g, P]: the taps of the last axis side by side; without g where there is one group.
        d: Outputs, [N, g, O/g, P].
    """

    tap: int
    x: ir.Value
    d: ir.Value


def patches(op: Builder, x: ir.Value, d: ir.Value, window: Window) -> Iterator[Patches]:
    """Views of the input [N, I, *H] for outputs [N, O, *Q], one for each tap of the leading kernel axes.

    Along the last axis shifted copies of the input are stacked as channels. Along the others, where the stride is 1,
    the outputs are shifted instead, which are not stacked and therefore less to copy; else every tap takes the rows
    that it saw.
    """
    *leading, last = window.axes
    sizes, made = dims(x)[2:-1], dims(d)[2:-1]
    flat = [0] * (2 if window.group == 1 else 3) + [-1]
    shifting = all_known([*sizes, *made, dims(d)[-1]]) and all(axis.stride == 1 for axis in leading)
    if shifting and len(leading) == 1 and sizes[0] * dims(d)[-1] % PAGE == 0:
        x = pad_or_crop(op, x, [2], [0], [1])
    stacked, grouped = _stack(op, x, d, last, window.group), _grouped(op, d, window.group)
    pairs = (_shift_outputs if shifting else _pick_rows)(op, stacked, grouped, leading)
    for tap, (seen, seeing) in enumerate(pairs):
        yield Patches(tap, *(x if rank(x) == len(flat) else op.Reshape(x, flat) for x in (seen, seeing)))


# --- the last axis: shifted copies side by side -----------------------------------------------------------------------


def _stack(op: Builder, x: ir.Value, d: ir.Value, last: Axis, group: int) -> ir.Value:
    """[N, I, .., H] -> [N, g, kernel * I/g, .., Q]."""
    size, made = dims(x)[-1], dims(d)[-1]
    x = _grouped(op, x, group)
    padded = pad_or_crop(op, x, [rank(x) - 1], [last.begin], [last.end])
    views = [
        x if offset == last.begin and last.stride == 1 and size == made else _view(op, padded, d, last, offset)
        for offset in range(0, last.reach + 1, last.dilation)
    ]
    return op.Concat(*views, axis=1 if group == 1 else 2) if len(views) > 1 else views[0]


def _view(op: Builder, padded: ir.Value, d: ir.Value, last: Axis, offset: int) -> ir.Value:
    axis, made = [rank(padded) - 1], dims(d)[-1]
    if isinstance(made, int):
        return op.Slice(padded, [offset], [offset + (made - 1) * last.stride + 1], axis, [last.stride])
    reach = op.Mul(op.Sub(op.Shape(d, start=-1), np.asarray([1])), np.asarray([last.stride]))
    return op.Slice(padded, [offset], op.Add(reach, np.asarray([offset + 1])), axis, [last.stride])


def _grouped(op: Builder, value: ir.Value, group: int) -> ir.Value:
    """[N, g * C, *P] -> [N, g, C, *P]; unchanged for one group."""
    if group == 1:
        return value
    batch, channels, *sizes = dims(value)
    split = [group, channels // group]
    if all_known(sizes):
        return op.Reshape(value, [0, *split, *sizes])
    result = op.Reshape(value, op.Concat(np.asarray([0, *split]), op.Shape(value, start=2), axis=0))
    result.shape = ir.Shape([batch, *split, *sizes])
    return result


# --- the leading axes -------------------------------------------------------------------------------------------------


def _taps(leading: Sequence[Axis]) -> Iterator[tuple[int, ...]]:
    return np.ndindex(*(axis.kernel for axis in leading))


def _leading_axes(value: ir.Value, leading: Sequence[Axis]) -> list[int]:
    return list(range(rank(value) - 1 - len(leading), rank(value) - 1))


def _shift_outputs(op: Builder, x: ir.Value, d: ir.Value, leading: Sequence[Axis]) -> Iterator[Pair]:
    """The whole input with the outputs moved so that each lies where the tap saw it, and zeros elsewhere."""
    axes = _leading_axes(d, leading)
    sizes, made, unit = [dims(x)[axis] for axis in axes], [dims(d)[axis] for axis in axes], 1
    if len(leading) == 1:  # rows follow each other in memory: move them as one long row
        unit, axes = dims(d)[-1], axes[:1]
        d = op.Reshape(d, [*[0] * axes[0], -1])
    begins = [(axis.reach - axis.begin) * unit for axis in leading]
    ends = [(size + axis.begin - q) * unit for axis, size, q in zip(leading, sizes, made, strict=True)]
    wide = pad_or_crop(op, d, axes, begins, ends) if leading else d
    for taps in _taps(leading):
        starts = [(axis.reach - tap * axis.dilation) * unit for axis, tap in zip(leading, taps, strict=True)]
        if starts == begins and sizes == made:
            yield x, d
        else:
            yield x, op.Slice(wide, starts, [s + n * unit for s, n in zip(starts, sizes, strict=True)], axes)


def _pick_rows(op: Builder, x: ir.Value, d: ir.Value, leading: Sequence[Axis]) -> Iterator[Pair]:
    """The rows of the input that a tap saw, and the outputs that saw them."""
    axes = _leading_axes(d, leading)
    sizes, made = [dims(x)[axis] for axis in axes], [dims(d)[axis] for axis in axes]
    if any(
        _rows(axis, tap, *case) is None
        for axis, *case in zip(leading, sizes, made, strict=True)
        for tap in range(axis.kernel)
    ):
        x = pad_or_crop(op, x, axes, [axis.begin for axis in leading], [axis.end for axis in leading])
        leading = [replace(axis, begin=0, end=0) for axis in leading]
        sizes = [dims(x)[axis] for axis in axes]
    steps = [axis.stride for axis in leading]
    for taps in _taps(leading):
        rows = [_rows(*case) for case in zip(leading, taps, sizes, made, strict=True)]
        known = [row for row in rows if row is not None]
        if len(known) == len(rows):
            yield _cut(op, x, axes, [row[0] for row in known], steps), _cut(op, d, axes, [row[1] for row in known])
        else:
            yield _rows_at_run_time(op, x, d, leading, taps), d


def _rows(axis: Axis, tap: int, size: Any, made: Any) -> tuple[slice, slice] | None:
    """The inputs that a tap sees and the outputs that see them; None when sizes are free or it sees padding only."""
    if not isinstance(size, int) or not isinstance(made, int):
        return None
    offset = tap * axis.dilation - axis.begin
    first = max(0, -(offset // axis.stride))
    last = min(made, (size - 1 - offset) // axis.stride + 1)
    if last <= first:
        return None
    start = first * axis.stride + offset
    return slice(start, start + (last - 1 - first) * axis.stride + 1), slice(first, last)


def _cut(
    op: Builder, value: ir.Value, axes: Sequence[int], rows: Sequence[slice], steps: Sequence[int] | None = None
) -> ir.Value:
    """A slice of some axes, or the value itself where it is all of them."""
    steps = list(steps or [1] * len(axes))
    whole = all(row == slice(0, dims(value)[axis]) for row, axis in zip(rows, axes, strict=True))
    if whole and all(step == 1 for step in steps):
        return value
    return op.Slice(value, [row.start for row in rows], [row.stop for row in rows], list(axes), steps)


def _rows_at_run_time(op: Builder, x: ir.Value, d: ir.Value, leading: Sequence[Axis], taps: Sequence[int]) -> ir.Value:
    """The same over an input of free size that was padded: every output sees some row."""
    axes = _leading_axes(d, leading)
    starts = np.asarray([axis.dilation * tap for axis, tap in zip(leading, taps, strict=True)])
    steps = np.asarray([axis.stride for axis in leading])
    reach = op.Mul(op.Sub(op.Shape(d, start=axes[0], end=axes[-1] + 1), np.ones_like(steps)), steps)
    return op.Slice(x, starts, op.Add(reach, starts + 1), axes, steps)
