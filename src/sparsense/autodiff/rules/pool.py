"""Pooling: averages give back equal shares, maxima give back to the element that was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff.rule import Call, vjp
from sparsense.autodiff.rules.convolution import into_blocks, scatter_windows
from sparsense.autodiff.rules.window import Axis, Window
from sparsense.autodiff.shapes import (
    all_known,
    as_mask,
    count_along,
    dims,
    dtype_of,
    expand_like,
    ones_like,
    rank,
    shape_like,
    zeros_like,
)
from sparsense.graph.build import Builder


def _global_average(op: Builder, d: Any, c: Call) -> Any:
    count = count_along(op, c.x[0], range(2, rank(c.x[0])))
    if isinstance(count, float):
        return into_blocks(op, expand_like(op, d, c.x[0]), 1 / count)
    return expand_like(op, op.Div(d, count), c.x[0])


vjp("GlobalAveragePool", _global_average)


def _global_max(op: Builder, d: Any, c: Call) -> Any:
    """To the first largest element of each channel."""
    flat = op.Reshape(c.x[0], [0, 0, -1])
    chosen = op.ArgMax(flat, axis=2, keepdims=1)
    spread = op.ScatterElements(zeros_like(op, flat), chosen, op.Reshape(d, [0, 0, 1]), axis=2)
    return op.Reshape(spread, shape_like(op, c.x[0]))


vjp("GlobalMaxPool", _global_max)


def _average(op: Builder, d: Any, c: Call) -> Any:
    """Each window gives its gradient back in equal shares to the elements that it averaged."""
    window, sizes = Window.of(c), dims(c.x[0])[2:]
    if sizes == window.kernel and not any(window.pads) and max(window.dilations) == 1:
        return into_blocks(op, expand_like(op, d, c.x[0]), 1 / prod(sizes))
    return scatter_windows(op, op.Div(d, _window_counts(op, c, window)), c.x[0], window)


def _window_counts(op: Builder, c: Call, window: Window) -> Any:
    """How many elements each output averaged: one number, a constant map, or worked out at run time."""
    padded = bool(c.attribute("count_include_pad", 0))
    if not window.ceil and (padded or not any(window.pads)):
        return float(prod(window.kernel))
    sizes, made = dims(c.x[0])[2:], dims(c.y[0])[2:]
    if all_known([*sizes, *made]):
        counts = [_axis_counts(*axis, padded) for axis in zip(window.axes, sizes, made, strict=True)]
        return np.asarray(_outer(counts), dtype_of(c.x[0]))
    attributes = {**window.attributes(), "ceil_mode": int(window.ceil)}
    present = op.LpPool(ones_like(op, c.x[0]), **attributes, p=1)
    if padded:
        raise c.refuse("averages padding in partial windows over a free height or width; export fixed sizes")
    return present


def _axis_counts(axis: Axis, size: int, made: int, padded: bool) -> NDArray[Any]:
    """Elements under the window of each output, along one axis; padding counts when `padded`."""
    taps = np.arange(made)[:, None] * axis.stride + np.arange(axis.kernel) * axis.dilation - axis.begin
    low, high = (-axis.begin, size + axis.end) if padded else (0, size)
    counts: NDArray[Any] = np.sum((taps >= low) & (taps < high), axis=1)
    return counts


def _outer(counts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    product: NDArray[Any] = reduce(np.multiply.outer, counts)
    return product


vjp("AveragePool", _average)


def _max(op: Builder, d: Any, c: Call) -> Any:
    """To the first largest element of each window, at the index that MaxPool itself reports."""
    attributes = {**c.attributes(), "storage_order": 0}
    _, indices = op.call("MaxPool", c.x[0], outputs=2, **attributes)
    flat = op.Reshape(zeros_like(op, c.x[0]), [-1])
    spread = op.ScatterElements(flat, op.Reshape(indices, [-1]), op.Reshape(d, [-1]), axis=0, reduction="add")
    return op.Reshape(spread, shape_like(op, c.x[0]))


vjp("MaxPool", _max)


# y = (sum over the window of |x|^p)^(1/p): dx = sign(x) |x|^(p-1) * (d y^(1-p) of every window over x)
def _lp_share(op: Builder, d: ir.Value, y: ir.Value, p: int) -> ir.Value:
    zero = as_mask(op, op.Equal(y, 0.0), y)
    return op.Div(d, op.Pow(op.Add(y, zero), float(p - 1)))


def _lp_slope(op: Builder, x: ir.Value, p: int) -> ir.Value:
    return x if p == 2 else op.Mul(op.Sign(x), op.Pow(op.Abs(x), float(p - 1)))


def _lp(op: Builder, d: Any, c: Call) -> Any:
    p = c.attribute("p", 2)
    share = scatter_windows(op, _lp_share(op, d, c.y[0], p), c.x[0], Window.of(c))
    return op.Mul(share, _lp_slope(op, c.x[0], p))


def _global_lp(op: Builder, d: Any, c: Call) -> Any:
    p = c.attribute("p", 2)
    return op.Mul(_lp_share(op, d, c.y[0], p), _lp_slope(op, c.x[0], p))


vjp("LpPool", _lp)
vjp("GlobalLpPool", _global_lp)
