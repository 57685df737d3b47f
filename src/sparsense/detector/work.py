"""What a graph computes for one sample: an estimate that is the same on every machine and at every hour."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from sparsense.autodiff.shapes import dims

PER_PRODUCT, PER_VALUE = 7, 100
"""Nanoseconds of the reference implementation of ONNX, in float64, for a multiply-add and for an output value."""


def nanoseconds(model: ir.Model) -> int:
    """About how long the reference implementation takes for one sample, within a factor of three or so.

    Products of convolutions and matrices, and values written; sizes that are not known count as one.
    """
    return sum(PER_PRODUCT * _products(node) + PER_VALUE * sum(map(_size, node.outputs)) for node in model.graph)


def _products(node: ir.Node) -> int:
    first, second, *_ = [*node.inputs, None, None]
    if node.op_type in ("Conv", "ConvTranspose"):
        values = node.outputs[0] if node.op_type == "Conv" else first
        return _size(values) * _size(second, skip=1)
    if node.op_type in ("MatMul", "Gemm"):
        return _size(node.outputs[0]) * _size(first, skip=len(_dims(first)) - 1)
    return 0


def _size(value: ir.Value | None, *, skip: int = 0) -> int:
    return prod(size for size in _dims(value)[skip:] if isinstance(size, int))


def _dims(value: ir.Value | None) -> list[object]:
    return [] if value is None or value.shape is None else list(dims(value))
