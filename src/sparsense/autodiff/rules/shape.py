"""Operators that move elements without changing them; their gradients move them back."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsense.autodiff.rule import Call, variadic, vjp
from sparsense.autodiff.shapes import dims, permutation_inverse, rank, shape_like
from sparsense.graph.build import Builder


def _back(op: Builder, d: Any, c: Call) -> Any:
    return op.Reshape(d, shape_like(op, c.x[0]))


for _name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
    vjp(_name, _back)


def _transpose(op: Builder, d: Any, c: Call) -> Any:
    perm = list(c.attribute("perm", range(rank(c.x[0]))[::-1]))
    return op.Transpose(d, perm=permutation_inverse(perm))


vjp("Transpose", _transpose)
vjp("Expand", lambda op, d, c: d)  # the walk sums over the repeated axes


def _concat(op: Builder, d: Any, c: Call, index: int) -> Any:
    axis = c.attribute("axis") % rank(c.y[0])
    sizes = [dims(value)[axis] for value in c.x]
    if all(isinstance(size, int) for size in sizes):
        start = sum(sizes[:index])
        return op.Slice(d, [start], [start + sizes[index]], [axis])
    lengths = [op.Gather(op.Shape(value), np.asarray([axis], np.int64)) for value in c.x]
    start = op.Sum(*lengths[:index]) if index else op.constant(np.asarray([0], np.int64))
    return op.Slice(d, start, op.Add(start, lengths[index]), [axis])


variadic("Concat", _concat)
