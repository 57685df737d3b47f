"""How many calibration scores are at least as high as a score: all at once, or two steps where there are many.

Comparing N scores with n others takes N n comparisons and as much memory. With the n sorted and cut into blocks of
sqrt(n), each takes 2 sqrt(n): with the first of every block, then with those of one block. The count is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff.shapes import dims
from sparsense.graph.build import Builder

DIRECT = 1024  # so many are compared at once: fewer nodes are as fast
Array = NDArray[Any]
Table = ir.Value | Array


def exceeding(op: Builder, score: ir.Value, table: Table) -> ir.Value:
    """#{table >= score}, [N] as float32; 0 for a score that is not a number.

    Args:
        op: Builder.
        score: [N].
        table: Ascending, [n].
    """
    count = length(table)
    if count <= DIRECT:
        return _at_least(op, table, score)
    side = _side(count)
    if missing := -count % side:
        table = op.Concat(np.full(missing, -np.inf, np.float32), table, axis=0)
    blocks = op.Reshape(table, [-1, side])
    later = op.Gather(op.Gather(blocks, np.asarray(0), axis=1), np.arange(1, -(-count // side)), axis=0)
    above = _at_least(op, later, score)
    last = op.Sub(float(-(-count // side) - 1), above)
    return op.Min(_in_blocks(op, score, blocks, (last, above)), float(count))


def exceeding_in_class(
    op: Builder, judged: tuple[ir.Value, ir.Value], table: tuple[ir.Value, ir.Value], pooled: NDArray[np.bool_]
) -> tuple[ir.Value, ir.Value]:
    """The same among the calibration inputs of the predicted class; and how many those are, both [N].

    Args:
        op: Builder.
        judged: Scores [N] and predicted classes [N].
        table: Scores [n], ascending, and predicted classes [n]; constants.
        pooled: Which classes are compared with all, [K].
    """
    (score, predicted), (scores, classes) = judged, table
    if length(scores) <= DIRECT:
        alike = op.Equal(classes, op.Unsqueeze(predicted, [1]))
        peers = op.Or(alike, op.Unsqueeze(op.Gather(pooled, predicted, axis=0), [1]))
        higher = op.And(peers, op.GreaterOrEqual(scores, op.Unsqueeze(score, [1])))
        return _count(op, higher), _count(op, peers)
    plan = _Plan.of(classes.const_value.numpy(), pooled)  # type: ignore[union-attr]  # a constant
    group = op.Gather(plan.group, predicted, axis=0)
    padded = op.Concat(np.full(1, -np.inf, np.float32), scores, axis=0)
    blocks = op.Gather(padded, plan.places, axis=0)
    later = op.Gather(op.Gather(blocks, np.asarray(0), axis=1), plan.later, axis=0)
    groups = op.Gather(op.Concat(classes, np.asarray([len(pooled)]), axis=0), plan.witness[plan.later], axis=0)
    own = op.Equal(groups, op.Unsqueeze(group, [1]))
    above = _count(op, op.And(own, op.GreaterOrEqual(later, op.Unsqueeze(score, [1]))))
    last, size = (op.Gather(column.astype(np.float32), group, axis=0) for column in (plan.last, plan.size))
    return op.Min(_in_blocks(op, score, blocks, (op.Sub(last, above), above)), size), size


@dataclass(frozen=True)
class _Plan:
    """Blocks of sorted scores, class after class; all together at the end, for classes that are pooled.

    Attributes:
        places: In the table of scores, one further on; 0 where a block is not full, [M, B].
        witness: An input of each block's class, [M]; one behind the last for the blocks of all.
        later: Which blocks are not the first of their group.
        group: Of each class, [K].
        last: Block of each group, [K + 1].
        size: Scores of each group, [K + 1].
    """

    places: Array
    witness: Array
    later: Array
    group: Array
    last: Array
    size: Array

    @classmethod
    def of(cls, classes: Array, pooled: NDArray[np.bool_]) -> _Plan:
        """For classes [n] of scores that ascend."""
        side, count = _side(len(classes)), len(pooled)
        members = [np.flatnonzero((classes == label) & ~pooled[label]) for label in range(count)]
        members.append(np.arange(len(classes)) if pooled.any() else np.arange(0))
        padded = [np.pad(own + 1, (-len(own) % side, 0)) for own in members]
        heights = [len(own) // side for own in padded]
        owner = np.repeat(np.arange(count + 1), heights)
        later = np.flatnonzero(owner[1:] == owner[:-1]) + 1
        last, size = np.maximum(np.cumsum(heights) - 1, 0), np.array([len(own) for own in members])
        places = np.concatenate(padded).reshape(-1, side).astype(np.int32)
        witness = np.where(owner == count, len(classes), places[:, -1] - 1)
        return cls(places, witness, later, np.where(pooled, count, np.arange(count)), last, size)


def _in_blocks(op: Builder, score: ir.Value, blocks: ir.Value, found: tuple[ir.Value, ir.Value]) -> ir.Value:
    """What lies in the blocks above, whole, and what is as high in the one below them: [N]."""
    block, above = found
    chosen = op.Gather(blocks, op.Cast(block, to=int(ir.DataType.INT64)), axis=0)
    return op.Add(op.Mul(above, float(dims(blocks)[1])), _at_least(op, chosen, score))


def _at_least(op: Builder, values: Table, score: ir.Value) -> ir.Value:
    return _count(op, op.GreaterOrEqual(values, op.Unsqueeze(score, [1])))


def _count(op: Builder, condition: ir.Value) -> ir.Value:
    """How many of [N, n] hold, [N]."""
    return op.ReduceSum(op.Cast(condition, to=int(ir.DataType.FLOAT)), [1], keepdims=0)


def _side(count: int) -> int:
    return isqrt(max(count - 1, 0)) + 1


def length(table: Table) -> int:
    """The number of scores in it."""
    return len(table) if isinstance(table, np.ndarray) else int(dims(table)[0])
