"""Masks: 1 where a comparison holds, else 0, made by an operator that ONNX Runtime keeps in its blocked layout."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.shapes import as_mask
from sparsense.graph.build import Builder

STEEP = 2.0**126
"""Slope of a ramp that reads every normal float32 number above 0 as 1. A power of two: products with it are exact."""

BELOW_ZERO = -(2.0**-100)
"""An offset that changes no result; OpenVINO reads an offset of 0 as if none were given, which is 0.5."""


def above(op: Builder, x: ir.Value, bound: float) -> ir.Value:
    """1 where x > bound, else 0.

    A comparison gives booleans, for which ONNX Runtime leaves the blocked layout of its convolutions; the ramp
    `clip(slope * x + offset, 0, 1)` with a very steep slope says the same within it, exactly.
    """
    if x.dtype != ir.DataType.FLOAT or not fits(bound):
        return as_mask(op, op.Greater(x, bound), x)
    return _ramp(op, x, bound, 1)


def below(op: Builder, x: ir.Value, bound: float) -> ir.Value:
    """1 where x < bound, else 0."""
    if x.dtype != ir.DataType.FLOAT or not fits(bound):
        return as_mask(op, op.Less(x, bound), x)
    return _ramp(op, x, bound, -1)


def at_least(op: Builder, x: ir.Value, bound: float) -> ir.Value:
    """1 where x >= bound, else 0."""
    if x.dtype != ir.DataType.FLOAT or not fits(bound):
        return as_mask(op, op.GreaterOrEqual(x, bound), x)
    return _ramp(op, x, np.nextafter(np.float32(bound), np.float32(-np.inf)), 1)


def at_most(op: Builder, x: ir.Value, bound: float) -> ir.Value:
    """1 where x <= bound, else 0."""
    if x.dtype != ir.DataType.FLOAT or not fits(bound):
        return as_mask(op, op.LessOrEqual(x, bound), x)
    return _ramp(op, x, np.nextafter(np.float32(bound), np.float32(np.inf)), -1)


def fits(bound: float) -> bool:
    """Whether the ramp's offset and the steps between the numbers around it suit float32."""
    return bound == 0 or 2.0**-60 <= abs(bound) <= 2.0**20


def is_step(node: ir.Node) -> bool:
    """Whether a HardSigmoid node is a mask, whose derivative is zero."""
    alpha = node.attributes.get("alpha")
    return alpha is not None and abs(float(alpha.value)) >= 2.0**60


def _ramp(op: Builder, x: ir.Value, start: float, sign: int) -> ir.Value:
    """0 at the start and on one side of it, 1 from the next number on the other side on."""
    if abs(start) < np.finfo(np.float32).tiny:  # around zero: 0 itself belongs to the side of `start`'s successor
        return op.HardSigmoid(x, alpha=sign * STEEP, beta=BELOW_ZERO if start == 0 else 1.0)
    slope = STEEP / 2.0**24  # 2^20 times this slope is still finite
    return op.HardSigmoid(x, alpha=sign * slope, beta=float(-sign * slope * float(start)))


def complement(op: Builder, share: ir.Value) -> ir.Value:
    """1 - share, for values between 0 and 1; as a ramp, which unlike Sub stays in the blocked layout."""
    return op.HardSigmoid(share, alpha=-1.0, beta=1.0) if share.dtype == ir.DataType.FLOAT else op.Sub(1.0, share)
