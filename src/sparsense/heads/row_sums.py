"""Row sums of Gram matrices of feature maps as graph nodes, without the matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.shapes import dims
from sparsense.graph.build import Builder


def row_sums(
    op: Builder, maps: Sequence[ir.Value], powers: Sequence[int], scales: Sequence[float] = ()
) -> list[ir.Value]:
    """Signed roots of sum_j sum_positions z_i^p z_j^p without the matrices themselves: [N, channels of all maps] each.

    The powers of a map lie behind each other, so that one product each gives sum_j z_j^p and the sums over positions;
    roots are taken of all maps at once. With many small maps the number of nodes is what costs. With scales, one for
    each map, powers are taken of scaled values, where those of the values themselves would leave float32.
    """
    scales = scales or [1.0] * len(maps)
    scaled = [value if scale == 1 else op.Mul(value, scale) for value, scale in zip(maps, scales, strict=True)]
    totals = op.Concat(*(_totals(op, value, powers) for value in scaled), axis=2)
    parts = op.call("Split", op.Squeeze(totals, [3]), [1] * len(powers), axis=1, outputs=len(powers))
    roots = [_root(op, op.Squeeze(part, [1]), power) for part, power in zip(parts, powers, strict=True)]
    if all(scale == 1 for scale in scales):
        return roots
    widths = [dims(value)[1] for value in maps]
    back = np.repeat(np.square(1 / np.array(scales)), widths).astype(np.float32)
    return [op.Mul(root, back) for root in roots]


def _totals(op: Builder, value: ir.Value, powers: Sequence[int]) -> ir.Value:
    """sum_j sum_positions z_i^p z_j^p, [N, powers, C, 1]."""
    channels = dims(value)[1]
    flat = op.Reshape(value, [0, 1, channels, -1])
    raised = [flat]
    for _ in range(max(powers) - 1):
        raised.append(op.Mul(raised[-1], flat))
    chosen = [raised[power - 1] for power in powers]
    stack = op.Concat(*chosen, axis=1) if len(chosen) > 1 else chosen[0]
    together = op.MatMul(np.ones((1, channels), np.float32), stack)
    return op.MatMul(stack, op.Reshape(together, [0, len(powers), -1, 1]))


def _root(op: Builder, total: ir.Value, power: int) -> ir.Value:
    """The total of an even power cannot be negative."""
    if power == 1:
        return total
    if power == 2:
        return op.Sqrt(total)
    if power == 4:
        return op.Sqrt(op.Sqrt(total))
    root = op.Pow(op.Abs(total), 1 / power)
    return op.Mul(op.Sign(total), root) if power % 2 else root
