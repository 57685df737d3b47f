"""How surprising a score is: -log p, from the scores of in-distribution data and, beyond them, their tail."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.graph.build import Builder

LEAST = 1e-12  # distance of two knots
SHARES = np.linspace(0, 0.9, 10)  # knots between; beyond the last an exponential tail
Array = NDArray[np.float64]


def surprise_knots(scores: Array) -> tuple[Array, Array]:
    """A piecewise linear curve from scores to -log p.

    It passes -log(1 - q) at the q-quantiles, is 0 below the smallest score, and rises by 1 per mean excess above the
    last knot: scores beyond all the data keep their order.

    Args:
        scores: `[n]` of in-distribution inputs.

    Returns:
        Knots [J], ascending, and the slope behind each [J].
    """
    knots = np.quantile(scores, SHARES)
    excess = scores[scores > knots[-1]] - knots[-1]
    # equal scores keep a slope that float32 can hold
    least = max(1e-6 * max(float(knots[-1] - knots[0]), float(np.abs(knots).max())), LEAST)
    gaps = np.maximum(np.diff(knots), least)
    width = max(float(excess.mean()) if len(excess) else 0.0, least)
    slopes = np.append(np.diff(-np.log1p(-SHARES)) / gaps, 1 / width)
    return knots[0] + np.concatenate([[0.0], np.cumsum(gaps)]), slopes


def surprise_of(op: Builder, score: ir.Value, knots: Array, slopes: Array) -> ir.Value:
    """The curve as graph nodes, [N, 1] -> [N, 1]: what the score covers of each piece, times its slope."""
    covered = op.Max(op.Sub(score, knots.astype(np.float32)), 0.0)
    lengths = np.append(np.diff(knots), np.finfo(np.float32).max).astype(np.float32)
    return op.ReduceSum(op.Mul(op.Min(covered, lengths), slopes.astype(np.float32)), [1], keepdims=1)
