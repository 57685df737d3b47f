"""Shapes inside rules: sizes that are known become constants, the rest is asked of the graph at run time."""

from __future__ import annotations

from typing import Any

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
            f"differentiating the graph: value {value.name!r} has no known rank; export the model with shapes that can be inferred"
        )
    return list(value.shape)


def rank(value: ir.Value) -> int:
    """The number of axes."""
    return len(dims(value))


def shape_like(op: Builder, value: ir.Value) -> Any:
    """The shape of a value as an operand of Reshape: constant when at most one size is free."""
    sizes = dims(value)
    if sum(not isinstance(size, int) for size in sizes) <= 1:
        return [size if isinstance(size, int) else -1 for size in sizes]
    return op.Shape(value)


def expand_like(op: Builder, delta: ir.Value, value: ir.Value) -> ir.Value:
    """Repeat a gradient along the axes where it has size 1 and the value does not; ranks are equal."""
    target, present = dims(value), dims(delta)
    if all(isinstance(t, int) or p != 1 for t, p in zip(target, present, strict=True)):
        return op.Expand(delta, [t if isinstance(t, int) else 1 for t in target])
    return op.Expand(delta, op.Shape(value))


def unbroadcast(op: Builder, delta: ir.Value, value: ir.Value) -> ir.Value:
    """Sum a gradient over the axes along which its value was repeated to meet the other operand."""
    target, present = dims(value), dims(delta)
    extra = len(present) - len(target)
    axes = [
        *range(extra),
        *(
            extra + i
            for i, (t, p) in enumerate(zip(target, present[extra:], strict=True))
            if t == 1 and p != 1
        ),
    ]
    if not axes:
        return delta
    summed = op.ReduceSum(delta, axes, keepdims=1)
    return op.Squeeze(summed, list(range(extra))) if extra else summed


def permutation_inverse(perm: list[int]) -> list[int]:
    """The permutation that undoes another.

    Example:
        >>> permutation_inverse([2, 0, 1])
        [1, 2, 0]
    """
    return [perm.index(axis) for axis in range(len(perm))]
