"""Pooling."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from sparsense.autodiff.rule import Call, vjp
from sparsense.autodiff.rules.convolution import Window, scatter_windows
from sparsense.autodiff.shapes import dims, expand_like, rank, shape_like
from sparsense.graph.build import Builder


def _global_average(op: Builder, d: Any, c: Call) -> Any:
    sizes = dims(c.x[0])[2:]
    if all(isinstance(size, int) for size in sizes):
        return op.Mul(expand_like(op, d, c.x[0]), 1 / prod(sizes))
    count = op.ReduceProd(op.Slice(op.Shape(c.x[0]), [2], [rank(c.x[0])]), keepdims=0)
    return op.Div(expand_like(op, d, c.x[0]), op.Cast(count, to=int(d.dtype)))


vjp("GlobalAveragePool", _global_average)


def _average(op: Builder, d: Any, c: Call) -> Any:
    """Each window gives its gradient back in equal shares to the elements that it averaged."""
    window = Window.of(c)
    area = prod(window.kernel)
    if not any(window.pads) and not window.ceil and list(dims(c.x[0])[2:]) == list(window.kernel):
        return op.Mul(expand_like(op, d, c.x[0]), 1 / area)
    if c.attribute("count_include_pad", 0) and not window.ceil:
        return op.Mul(scatter_windows(op, d, c.x[0], window), 1 / area)
    ones = op.Add(op.Mul(op.Sign(c.x[0]), 0.0), 1.0)
    present = op.AveragePool(
        ones, **{**window.attributes(), "count_include_pad": 1, "ceil_mode": int(window.ceil)}
    )
    return op.Mul(scatter_windows(op, op.Div(d, present), c.x[0], window), 1 / area)


vjp("AveragePool", _average)


def _max(op: Builder, d: Any, c: Call) -> Any:
    """The gradient goes to the first largest element of each window, at the index that MaxPool itself reports."""
    attributes = {name: attribute.value for name, attribute in c.node.attributes.items()}
    _, indices = op.call("MaxPool", c.x[0], outputs=2, **attributes)
    size = op.ReduceProd(op.Shape(c.x[0]), keepdims=1)
    zeros = op.Expand(np.zeros(1, d.dtype.numpy()), size)
    flat = op.ScatterElements(zeros, op.Reshape(indices, [-1]), op.Reshape(d, [-1]), axis=0, reduction="add")
    return op.Reshape(flat, shape_like(op, c.x[0]))


vjp("MaxPool", _max)
