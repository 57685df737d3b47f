"""Reductions: the gradient is repeated along the reduced axes, weighted by what each element contributed."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.rule import Call, vjp
from sparsense.autodiff.shapes import dims, expand_like, rank
from sparsense.errors import GraphError
from sparsense.graph.build import Builder


def reduced_axes(c: Call) -> list[int]:
    """The axes of a Reduce node as non-negative numbers; all of them when none are given."""
    axes = c.input(1)
    if axes is not None and axes.const_value is None:
        raise GraphError(
            f"differentiating node {c.node.name!r} ({c.node.op_type}): its axes are computed at run time; export them as constants"
        )
    given = (
        [] if axes is None else [int(axis) % rank(c.x[0]) for axis in axes.const_value.numpy().reshape(-1)]
    )
    if not given and c.attribute("noop_with_empty_axes", 0):
        return []
    return sorted(given) or list(range(rank(c.x[0])))


def keep_axes(op: Builder, value: ir.Value, c: Call) -> ir.Value:
    """A value shaped like the node's output, with the reduced axes present as size 1."""
    return (
        value if c.attribute("keepdims", 1) or not reduced_axes(c) else op.Unsqueeze(value, reduced_axes(c))
    )


def spread(op: Builder, d: ir.Value, c: Call) -> ir.Value:
    """The gradient of the output, repeated to the shape of the input."""
    return expand_like(op, keep_axes(op, d, c), c.x[0])


def _mean(op: Builder, d: Any, c: Call) -> Any:
    sizes = [dims(c.x[0])[axis] for axis in reduced_axes(c)]
    if all(isinstance(size, int) for size in sizes):
        return op.Mul(spread(op, d, c), 1 / prod(sizes))
    count = op.ReduceProd(op.Gather(op.Shape(c.x[0]), np.asarray(reduced_axes(c), np.int64)), keepdims=0)
    return op.Div(spread(op, d, c), op.Cast(count, to=int(d.dtype)))


def _extreme(op: Builder, d: Any, c: Call) -> Any:
    """ReduceMax, ReduceMin: shared equally among ties, as torch's amax does."""
    hit = op.Cast(op.Equal(c.x[0], keep_axes(op, c.y[0], c)), to=int(c.x[0].dtype))
    ties = op.ReduceSum(hit, reduced_axes(c), keepdims=1)
    return op.Mul(hit, op.Div(keep_axes(op, d, c), ties))


vjp("ReduceSum", spread)
vjp("ReduceMean", _mean)
vjp("ReduceMax", _extreme)
vjp("ReduceMin", _extreme)
vjp("ReduceSumSquare", lambda op, d, c: op.Mul(op.Mul(keep_axes(op, d, c), 2.0), c.x[0]))
vjp("ReduceL1", lambda op, d, c: op.Mul(keep_axes(op, d, c), op.Sign(c.x[0])))
