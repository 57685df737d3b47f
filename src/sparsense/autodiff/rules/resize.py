"""Linear maps along single axes: Resize, and padding with what is already there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff.rule import Call, vjp
from sparsense.autodiff.shapes import dims, dtype_of, last_axis_order, pad_or_crop, permutation_inverse, rank
from sparsense.graph.build import Builder
from sparsense.graph.run import Session

Matrix = NDArray[Any]


def multiply_along(op: Builder, value: ir.Value, matrix: Matrix, axis: int) -> ir.Value:
    """result[.., i, ..] = sum over j of value[.., j, ..] * matrix[j, i], on one axis."""
    matrix = np.ascontiguousarray(matrix.astype(dtype_of(value)))
    size = rank(value)
    if axis == size - 2:
        return op.MatMul(np.ascontiguousarray(matrix.T), value)
    order = last_axis_order(axis, size)
    if axis == size - 1:
        return op.MatMul(value, matrix)
    moved = op.MatMul(op.Transpose(value, perm=order), matrix)
    return op.Transpose(moved, perm=permutation_inverse(order))


# --- Pad -------------------------------------------------------------------------------------------------------------


def _pad(op: Builder, d: Any, c: Call) -> Any:
    """Constant padding is cut off again; other paddings give back to the elements that they repeated."""
    constant, pads = c.attribute("mode", "constant") == "constant", c.x[1]
    if constant and pads.const_value is None:
        return op.Pad(d, op.Neg(pads), None, c.input(3))
    axes = range(rank(c.x[0])) if c.input(3) is None else [int(axis) % rank(c.x[0]) for axis in c.constant(3)]
    begins, ends = (part.tolist() for part in np.split(c.constant(1), 2))
    if constant:
        return pad_or_crop(op, d, axes, [-pad for pad in begins], [-pad for pad in ends])
    for axis, begin, end in zip(axes, begins, ends, strict=True):
        if begin or end:
            d = multiply_along(op, d, _repetition(c, dims(c.x[0])[axis], begin, end), axis)
    return d


def _repetition(c: Call, size: Any, begin: int, end: int) -> Matrix:
    """[padded, size]: which element each position repeats."""
    if not isinstance(size, int):
        raise c.refuse("repeats elements along an axis of free size; export it with fixed sizes")
    mode = c.attribute("mode")
    kept = np.arange(size)[max(-begin, 0) : size + min(end, 0)]
    source = np.pad(kept, (max(begin, 0), max(end, 0)), mode=mode)
    return np.eye(size)[source]


vjp("Pad", _pad)


# --- Resize ----------------------------------------------------------------------------------------------------------


def _resize(op: Builder, d: Any, c: Call) -> Any:
    _check(c)
    ratios = _whole_ratios(c)
    if ratios is not None:
        return _sum_blocks(op, d, ratios)
    for axis, (size, made) in enumerate(zip(dims(c.x[0]), dims(c.y[0]), strict=True)):
        if size == made and _scale(c, axis) in (None, 1.0):
            continue
        if not isinstance(size, int) or not isinstance(made, int):
            raise c.refuse("interpolates along an axis of free size; export it with a fixed height and width")
        d = multiply_along(op, d, interpolation(c, axis, size, made), axis)
    return d


def _check(c: Call) -> None:
    if c.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise c.refuse("crops while it resizes (tf_crop_and_resize), for which it has no rule")
    if c.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise c.refuse("keeps the aspect ratio, for which it has no rule; export it with explicit sizes")


def _scale(c: Call, axis: int) -> float | None:
    """The factor given for one axis; None when sizes are given instead."""
    scales = c.constant(2)
    if scales is None or scales.size == 0:
        return None
    axes = c.attribute("axes") or range(rank(c.x[0]))
    by_axis = {int(a) % rank(c.x[0]): float(s) for a, s in zip(axes, scales, strict=True)}
    return by_axis.get(axis, 1.0)


def _whole_ratios(c: Call) -> list[int] | None:
    """Whole-number enlargement of an image by repetition: the factor of each spatial axis; None for anything else."""
    scales = [_scale(c, axis) for axis in range(rank(c.x[0]))]
    known = [
        made / size if scale is None and isinstance(size, int) and isinstance(made, int) else scale
        for scale, size, made in zip(scales, dims(c.x[0]), dims(c.y[0]), strict=True)
    ]
    if c.attribute("mode", "nearest") != "nearest" or rank(c.x[0]) < 3:
        return None
    if any(scale is None or scale != int(scale) for scale in known) or known[:2] != [1, 1]:
        return None
    ratios = [int(scale) for scale in known if scale is not None][2:]
    repeats = all(np.array_equal(_measure(c, 4, 4 * r, float(r)), np.eye(4).repeat(r, 1)) for r in ratios)
    return ratios if repeats else None


def _sum_blocks(op: Builder, d: ir.Value, ratios: Sequence[int]) -> ir.Value:
    """Every element was repeated over a block: the block's gradients are summed."""
    averaged = op.AveragePool(d, kernel_shape=list(ratios), strides=list(ratios))
    return op.Mul(averaged, float(np.prod(ratios)))


def interpolation(c: Call, axis: int, size: int, made: int) -> Matrix:
    """[made, size]: the weights with which a Resize node mixes the elements of one axis."""
    return _measure(c, size, made, _scale(c, axis)).T


def _measure(c: Call, size: int, made: int, scale: float | None) -> Matrix:
    """[size, made]: the operator itself, run on the unit vectors: so its many options keep one meaning."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": c.opset}, name="resize")
    op = Builder(graph)
    unit = op.constant(np.eye(size, dtype=np.float32).reshape(size, 1, 1, size))
    attributes = {name: value for name, value in c.attributes().items() if name != "axes"}
    target = (np.asarray([1, 1, 1, scale], np.float32), None) if scale else (None, [size, 1, 1, made])
    result = op.Resize(unit, None, *target, **attributes)
    graph.outputs.append(result)
    (matrix,) = Session(ir.Model(graph, ir_version=10), threads=1)({})
    return np.asarray(matrix).reshape(size, made)


vjp("Resize", _resize)
