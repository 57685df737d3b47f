"""What every output of a convolution saw: shifted views of its input, row of the kernel by row of the kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.rules.window import Axis, Window
from sparsense.autodiff.shapes import all_known, dims, pad_or_crop
from sparsense.graph.build import Builder


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

    Along the last axis the input is padded and its shifted copies are stacked; along the others each tap takes the
    rows that it saw, and the outputs that saw them, so that padding is neither copied nor multiplied.
    """
    *leading, last = window.axes
    if any(_rows(axis, tap, *sizes) is None for axis, *sizes in _leading(leading, x, d) for tap in range(axis.kernel)):
        axes = list(range(2, 2 + len(leading)))
        x = pad_or_crop(op, x, axes, [axis.begin for axis in leading], [axis.end for axis in leading]) if leading else x
        leading = [replace(axis, begin=0, end=0) for axis in leading]
    stacked, grouped = _stack(op, x, d, last, window.group), _grouped(op, d, window.group)
    flat = [0] * (2 if window.group == 1 else 3) + [-1]
    for index, taps in enumerate(np.ndindex(*(axis.kernel for axis in leading))):
        seen, seeing = _meet(op, stacked, grouped, leading, taps)
        yield Patches(index, op.Reshape(seen, flat), op.Reshape(seeing, flat))


def _leading(leading: Sequence[Axis], x: ir.Value, d: ir.Value) -> list[tuple[Axis, Any, Any]]:
    return list(zip(leading, dims(x)[2:-1], dims(d)[2:-1], strict=True))


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


def _stack(op: Builder, x: ir.Value, d: ir.Value, last: Axis, group: int) -> ir.Value:
    """[N, I, .., H] -> [N, g, kernel * I/g, .., Q]: shifted copies along the last axis, as channels."""
    x, axis = _grouped(op, x, group), len(dims(x)) - (1 if group == 1 else 0)
    if last.kernel == 1 and last.stride == 1 and not (last.begin or last.end):
        return x
    padded = pad_or_crop(op, x, [axis], [last.begin], [last.end])
    views = [_view(op, padded, d, last, tap, axis) for tap in range(last.kernel)]
    return op.Concat(*views, axis=1 if group == 1 else 2) if len(views) > 1 else views[0]


def _view(op: Builder, padded: ir.Value, d: ir.Value, last: Axis, tap: int, axis: int) -> ir.Value:
    start, made = tap * last.dilation, dims(d)[-1]
    if isinstance(made, int):
        return op.Slice(padded, [start], [start + (made - 1) * last.stride + 1], [axis], [last.stride])
    reach = op.Mul(op.Sub(op.Shape(d, start=-1), np.asarray([1])), np.asarray([last.stride]))
    return op.Slice(padded, [start], op.Add(reach, np.asarray([start + 1])), [axis], [last.stride])


def _meet(
    op: Builder, x: ir.Value, d: ir.Value, leading: Sequence[Axis], taps: Sequence[int]
) -> tuple[ir.Value, ir.Value]:
    """The rows of the stacked input that a tap sees, and the rows of the outputs that see them."""
    axes = list(range(len(dims(d)) - 1 - len(leading), len(dims(d)) - 1))
    sizes, made = [dims(x)[axis] for axis in axes], [dims(d)[axis] for axis in axes]
    if not all_known([*sizes, *made]):
        return _meet_at_run_time(op, x, d, leading, taps), d
    rows = [row for case in zip(leading, taps, sizes, made, strict=True) if (row := _rows(*case)) is not None]
    steps = [axis.stride for axis in leading]
    return _cut(op, x, axes, [row[0] for row in rows], steps), _cut(op, d, axes, [row[1] for row in rows])


def _cut(
    op: Builder, value: ir.Value, axes: Sequence[int], rows: Sequence[slice], steps: Sequence[int] | None = None
) -> ir.Value:
    """A slice of some axes, or the value itself where it is all of them."""
    steps = list(steps or [1] * len(axes))
    whole = all(row == slice(0, dims(value)[axis]) for row, axis in zip(rows, axes, strict=True))
    if whole and all(step == 1 for step in steps):
        return value
    return op.Slice(value, [row.start for row in rows], [row.stop for row in rows], list(axes), steps)


def _meet_at_run_time(op: Builder, x: ir.Value, d: ir.Value, leading: Sequence[Axis], taps: Sequence[int]) -> ir.Value:
    """The same over an input that was padded: every output sees some row."""
    rank = len(dims(d))
    axes = list(range(rank - 1 - len(leading), rank - 1))
    starts = [axis.dilation * tap for axis, tap in zip(leading, taps, strict=True)]
    steps = [axis.stride for axis in leading]
    made = op.Shape(d, start=axes[0], end=axes[-1] + 1)
    reach = op.Mul(op.Sub(made, np.ones(len(axes), np.int64)), np.asarray(steps))
    return op.Slice(x, starts, op.Add(reach, np.asarray(starts) + 1), axes, steps)


def _grouped(op: Builder, value: ir.Value, group: int) -> ir.Value:
    """[N, g * C, *P] -> [N, g, C, *P]; unchanged for one group."""
    if group == 1:
        return value
    sizes = dims(value)[1:]
    channels = [group, sizes[0] // group]
    known = [size if isinstance(size, int) else None for size in sizes[1:]]
    if None not in known:
        return op.Reshape(value, [0, *channels, *known])
    split = op.Reshape(value, op.Concat(np.asarray([0, *channels]), op.Shape(value, start=2), axis=0))
    split.shape = ir.Shape([dims(value)[0], *channels, *sizes[1:]])
    return split
