"""Operators that move elements without changing or repeating them; their gradients move them back."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

from sparsense.autodiff.rule import Call, several_outputs, variadic, vjp
from sparsense.autodiff.shapes import all_known, dims, permutation_inverse, rank, shape_like, zeros_like
from sparsense.graph.build import Builder


def _back(op: Builder, d: Any, c: Call) -> Any:
    return op.Reshape(d, shape_like(op, c.x[0]))


for _name in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
    vjp(_name, _back)


def _transpose(op: Builder, d: Any, c: Call) -> Any:
    perm = c.attribute("perm", range(rank(c.x[0]))[::-1])
    return op.Transpose(d, perm=permutation_inverse(perm))


vjp("Transpose", _transpose)


def _concat(op: Builder, d: Any, c: Call, index: int) -> Any:
    axis = c.attribute("axis") % rank(c.y[0])
    sizes = [dims(value)[axis] for value in c.x]
    if all_known(sizes):
        start = sum(sizes[:index])
        return op.Slice(d, [start], [start + sizes[index]], [axis])
    lengths = [op.Gather(op.Shape(value), [axis]) for value in c.x]
    first = reduce(op.Add, lengths[:index], op.constant(np.zeros(1, np.int64)))
    return op.Slice(d, first, op.Add(first, lengths[index]), [axis])


variadic("Concat", _concat)


def _split(op: Builder, c: Call) -> Any:
    """The parts side by side again; a part that nobody used gives zeros."""
    parts = [zeros_like(op, y) if d is None else d for y, d in zip(c.y, c.deltas, strict=True)]
    return op.Concat(*parts, axis=c.attribute("axis", 0))


several_outputs("Split", _split)


def _depth_to_space(op: Builder, d: Any, c: Call) -> Any:
    """SpaceToDepth puts the block before the channels; in CRD mode the channels come first."""
    block = c.attribute("blocksize")
    folded = op.SpaceToDepth(d, blocksize=block)
    if c.attribute("mode", "DCR") == "DCR":
        return folded
    channels = dims(c.y[0])[1]
    return op.Gather(folded, [b * channels + k for k in range(channels) for b in range(block**2)], axis=1)


vjp("DepthToSpace", _depth_to_space)
vjp("SpaceToDepth", lambda op, d, c: op.DepthToSpace(d, blocksize=c.attribute("blocksize")))
vjp("Trilu", lambda op, d, c: op.Trilu(d, c.input(1), upper=c.attribute("upper", 1)))
vjp("ReverseSequence", lambda op, d, c: op.ReverseSequence(d, c.x[1], **c.attributes()))


def _cumulated(op: Builder, d: Any, c: Call) -> Any:
    """Element i went into all sums from i on: the sum runs the other way."""
    return op.CumSum(d, c.x[1], exclusive=c.attribute("exclusive", 0), reverse=1 - c.attribute("reverse", 0))


vjp("CumSum", _cumulated)
