"""Reductions: the gradient is repeated along the reduced axes, weighted by what each element contributed."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from sparsense.autodiff.rule import Call, vjp
from sparsense.autodiff.shapes import as_mask, count_along, expand_like, rank
from sparsense.graph.build import Builder


def reduced_axes(c: Call) -> list[int]:
    """The axes of a Reduce node as non-negative numbers; all of them when none are given."""
    axes = c.constant(1)
    given = [] if axes is None else [int(axis) % rank(c.x[0]) for axis in axes.reshape(-1)]
    if not given and c.attribute("noop_with_empty_axes", 0):
        raise c.refuse("reduces nothing (noop_with_empty_axes), which runtimes read differently")
    return sorted(given) or list(range(rank(c.x[0])))


def keep_axes(op: Builder, value: ir.Value, c: Call) -> ir.Value:
    """A value shaped like the node's output, with the reduced axes present as size 1."""
    return value if c.attribute("keepdims", 1) else op.Unsqueeze(value, reduced_axes(c))


def spread(op: Builder, d: ir.Value, c: Call) -> ir.Value:
    """The gradient of the output, repeated to the shape of the input."""
    return expand_like(op, keep_axes(op, d, c), c.x[0])


def _mean(op: Builder, d: Any, c: Call) -> Any:
    return op.Div(spread(op, d, c), count_along(op, c.x[0], reduced_axes(c)))


def _extreme(op: Builder, d: Any, c: Call) -> Any:
    """ReduceMax, ReduceMin: shared equally among ties, as torch's amax does."""
    hit = as_mask(op, op.Equal(c.x[0], keep_axes(op, c.y[0], c)), c.x[0])
    ties = op.ReduceSum(hit, reduced_axes(c), keepdims=1)
    return op.Mul(hit, op.Div(keep_axes(op, d, c), ties))


def _root_of_squares(op: Builder, d: Any, c: Call) -> Any:
    """The derivative is x / y, and 0 where the whole vector is 0."""
    y = keep_axes(op, c.y[0], c)
    safe = op.Add(y, as_mask(op, op.Equal(y, 0.0), y))
    return op.Mul(op.Div(keep_axes(op, d, c), safe), c.x[0])


def _product(op: Builder, d: Any, c: Call) -> Any:
    """The product of the others: that of all non-zero elements over the element, where no other one is 0."""
    x, axes = c.x[0], reduced_axes(c)
    zero = as_mask(op, op.Equal(x, 0.0), x)
    safe = op.Add(x, zero)
    others = op.Div(op.ReduceProd(safe, axes, keepdims=1), safe)
    other_zeros = op.Sub(op.ReduceSum(zero, axes, keepdims=1), zero)
    return op.Mul(op.Mul(keep_axes(op, d, c), others), as_mask(op, op.Equal(other_zeros, 0.0), x))


def _log_sum_exp(op: Builder, d: Any, c: Call) -> Any:
    return op.Mul(keep_axes(op, d, c), op.Exp(op.Sub(c.x[0], keep_axes(op, c.y[0], c))))


def _log_sum(op: Builder, d: Any, c: Call) -> Any:
    total = op.ReduceSum(c.x[0], reduced_axes(c), keepdims=1)
    return expand_like(op, op.Div(keep_axes(op, d, c), total), c.x[0])


vjp("ReduceSum", spread)
vjp("ReduceMean", _mean)
vjp("ReduceMax", _extreme)
vjp("ReduceMin", _extreme)
vjp("ReduceProd", _product)
vjp("ReduceL1", lambda op, d, c: op.Mul(keep_axes(op, d, c), op.Sign(c.x[0])))
vjp("ReduceL2", _root_of_squares)
vjp("ReduceSumSquare", lambda op, d, c: op.Mul(op.Mul(keep_axes(op, d, c), 2.0), c.x[0]))
vjp("ReduceLogSum", _log_sum)
vjp("ReduceLogSumExp", _log_sum_exp)
