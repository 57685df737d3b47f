"""Norms and inner products of per-sample sensitivities, without holding more of a gradient than is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, sqrt
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff.gates import sum_positions
from sparsense.autodiff.layers import Layer
from sparsense.autodiff.rules.linear import swap
from sparsense.autodiff.shapes import dims, rank
from sparsense.autodiff.weight_gradient import Block, blocks, join, weight_value, with_weight
from sparsense.graph.build import Builder

SAFE = 5
"""Highest order whose powers stay in the range of float32 for any sensitivity that occurs, once scaled."""

JOINED = 2**14
"""Weights of a layer whose blocks are put together before several norms are taken: there the number of nodes costs."""


def sensitivity_norms(
    op: Builder, layer: Layer, delta: ir.Value, orders: Sequence[float] = (2,), *, times_weight: bool = True
) -> list[ir.Value]:
    """Per-sample p-norms of `w * dL/dw`, or of the gradient alone, over all weights of a layer: [N] for each order.

    A layer that sees one position of each sample (fully connected) needs no gradient at all: its sensitivity is an
    outer product, |w * g|_p^p = sum_ij |x_i|^p |w_ij|^p |delta_j|^p. The gradients of others are made in blocks, and
    only sums of powers are kept. Before high powers are taken, values are scaled by the root of their number or, for
    orders above 5, by their largest, so that the power of a small sensitivity does not vanish in float32.

    Args:
        op: Builder.
        layer: The layer.
        delta: Gradient of its output, as `differentiate` gives it.
        orders: Each at least 1; `inf` for the largest magnitude.
        times_weight: Whether each gradient is multiplied with its weight.
    """
    if is_outer(layer) and inf not in orders:
        return [_outer_norm(op, layer, delta, float(order), times_weight=times_weight) for order in orders]
    if list(orders) == [2] and not times_weight and _gram_is_cheaper(layer):
        return [_gram_norm(op, layer, delta)]
    scale = max(power_scale(order, layer.weight.size) for order in orders)
    parts = blocks(op, layer, delta)
    if len(orders) > 1 and layer.weight.size <= JOINED:
        parts = [join(op, parts)]
    values = [_scaled(op, part, scale, times_weight=times_weight) for part in parts]
    norms = [_norm(op, values, order) for order in orders]
    return norms if scale == 1 else [op.Mul(norm, 1 / scale) for norm in norms]


def is_outer(layer: Layer) -> bool:
    """Whether every sample has one position, so that its weight gradient is an outer product."""
    return layer.node.op_type in ("Gemm", "MatMul") and rank(layer.activation) == 2 and layer.order == "first"


def p_norm(op: Builder, parts: Sequence[ir.Value], order: float, *, scale: float = 1.0) -> ir.Value:
    """The p-norm of all numbers of each sample, [N].

    Args:
        op: Builder.
        parts: Together the numbers, [N, ...] each.
        order: At least 1; `inf` for the largest magnitude.
        scale: What they are multiplied with before powers are taken, such as `power_scale`.
    """
    if scale == 1:
        return _norm(op, parts, order)
    return op.Mul(_norm(op, [op.Mul(part, scale) for part in parts], order), 1 / scale)


def _norm(op: Builder, parts: Sequence[ir.Value], order: float) -> ir.Value:
    return _norm_by_largest(op, parts, order) if order > SAFE else _norm_of_powers(op, parts, order)


def power_scale(order: float, count: int) -> float:
    """What to multiply `count` numbers with so that neither their powers nor the sums leave float32."""
    return sqrt(count) if order not in (1, 2) and order <= SAFE else 1.0


def _norm_of_powers(op: Builder, parts: Sequence[ir.Value], order: float) -> ir.Value:
    sums = [sum_each(op, power(op, value, order)) for value in parts]
    return root(op, _total(op.Sum, sums), order)


def _norm_by_largest(op: Builder, parts: Sequence[ir.Value], order: float) -> ir.Value:
    """Each part is divided by its largest magnitude before the power is taken; of the parts' norms again the norm."""
    largest = [op.ReduceMax(op.Abs(value), _all_but_first(value), keepdims=0) for value in parts]
    if order == inf:
        return _total(op.Max, largest)
    found = []
    for value, peak in zip(parts, largest, strict=True):
        safe = op.Max(peak, float(np.finfo(np.float32).tiny))
        relative = op.Div(value, op.Unsqueeze(safe, _all_but_first(value)))
        found.append(op.Mul(peak, _norm_of_powers(op, [relative], order)))
    if len(found) == 1:
        return found[0]
    return _norm_by_largest(op, [op.Concat(*(op.Unsqueeze(norm, [1]) for norm in found), axis=1)], order)


def sum_each(op: Builder, value: ir.Value) -> ir.Value:
    """The sum of all numbers of each sample, [N].

    Axis by axis: ONNX Runtime adds the numbers of joined axes one after the other, and of a million loses four digits.
    Its ReduceL1 and ReduceL2 do the same and are several times slower.
    """
    while rank(value) > 1:
        value = op.ReduceSum(value, [rank(value) - 1], keepdims=0)
    return value


def _all_but_first(value: ir.Value) -> list[int]:
    return list(range(1, rank(value)))


def _scaled(op: Builder, part: Block, scale: float, *, times_weight: bool) -> ir.Value:
    if times_weight:
        return op.Mul(part.gradient, part.weight if scale == 1 else op.Mul(part.weight, scale))
    return part.gradient if scale == 1 else op.Mul(part.gradient, scale)


def _total(combine: Callable[..., ir.Value], values: Sequence[ir.Value]) -> ir.Value:
    return combine(*values) if len(values) > 1 else values[0]


def root(op: Builder, total: ir.Value, order: float) -> ir.Value:
    """total^(1 / order)."""
    return total if order == 1 else op.Sqrt(total) if order == 2 else op.Pow(total, 1 / order)


def power(op: Builder, value: ir.Value, order: float) -> ir.Value:
    """|value|^order; small whole orders by multiplication, which is much faster than Pow."""
    if order != int(order) or order > 8:
        return op.Pow(op.Abs(value), order)
    if order == 1:
        return op.Abs(value)
    square = op.Mul(value, value)
    result = op.Abs(value) if order % 2 else square
    for _ in range(int(order) // 2 - (0 if order % 2 else 1)):
        result = op.Mul(result, square)
    return result


# --- one position: outer products -------------------------------------------------------------------------------------


def _outer_norm(op: Builder, layer: Layer, delta: ir.Value, order: float, *, times_weight: bool) -> ir.Value:
    """The p-norm of w * (x delta^T), each factor first divided by its largest magnitude so that no power vanishes."""
    x, largest_x = _normalised(op, layer.activation, order)
    d, largest_d = _normalised(op, delta, order)
    size = op.Mul(largest_x, largest_d)
    alpha = layer.node.attributes.get_float("alpha", 1.0) if layer.node.op_type == "Gemm" else 1.0
    if not times_weight:
        total = op.Mul(_row_sum(op, x), _row_sum(op, d))
        return op.Mul(op.Mul(root(op, total, order), size), abs(alpha))
    peak = float(np.abs(layer.weight).max(initial=0)) or 1.0
    weight = power(op, op.Mul(weight_value(op, layer), 1 / peak), order)
    weight = swap(op, weight) if layer.node.attributes.get_int("transB") else weight
    total = _row_sum(op, op.Mul(op.MatMul(x, weight), d))
    return op.Mul(op.Mul(root(op, total, order), size), peak * abs(alpha))


def _normalised(op: Builder, value: ir.Value, order: float) -> tuple[ir.Value, ir.Value]:
    """|value / m|^order and m, the largest magnitude in each row, [N]."""
    largest = op.ReduceMax(op.Abs(value), [1], keepdims=1)
    safe = op.Max(largest, float(np.finfo(np.float32).tiny))
    return power(op, op.Div(value, safe), order), op.Squeeze(largest, [1])


def _row_sum(op: Builder, value: ir.Value) -> ir.Value:
    return op.ReduceSum(value, [1], keepdims=0)


# --- few positions: the Gram trick ------------------------------------------------------------------------------------


def _gram_is_cheaper(layer: Layer) -> bool:
    """Products of positions cost P^2 (I + O), the gradient costs P I O."""
    if layer.node.op_type not in ("Gemm", "MatMul") or rank(layer.output) != 3 or layer.order != "first":
        return False
    positions, (into, out) = dims(layer.output)[1], layer.weight.shape
    return layer.channel_axis == 2 and isinstance(positions, int) and positions * (into + out) < into * out


def _gram_norm(op: Builder, layer: Layer, delta: ir.Value) -> ir.Value:
    """|G|^2 = sum over pairs of positions of (x_p . x_q) (delta_p . delta_q)."""
    x = layer.activation
    product = op.Mul(op.MatMul(x, swap(op, x)), op.MatMul(delta, swap(op, delta)))
    return op.Sqrt(op.Max(sum_each(op, product), 0.0))


# --- a fixed direction ------------------------------------------------------------------------------------------------


def inner_product(op: Builder, layer: Layer, delta: ir.Value, reference: NDArray[Any]) -> ir.Value:
    """Per-sample inner product of the weight gradient with a fixed array, [N]; the gradient itself is never made.

    <dL/dw, r> = sum over positions of z_r * delta, where z_r is the layer's output with r in place of the weight

    Args:
        op: Builder.
        layer: The layer.
        delta: Gradient of its output.
        reference: Shaped like the weight. For sensitivities `w * dL/dw` give `w * r`.
    """
    if reference.shape != layer.weight.shape:
        raise ValueError(
            f"comparing layer {layer.name!r} with a reference: expected the shape {layer.weight.shape} of its weight, "
            f"got {reference.shape}"
        )
    product = op.Mul(with_weight(op, layer, reference), delta)
    return op.ReduceSum(sum_positions(op, layer, product), [1], keepdims=0)


def cosine(op: Builder, layer: Layer, delta: ir.Value, reference: NDArray[Any]) -> ir.Value:
    """Per-sample cosine of `w * dL/dw` with a fixed sensitivity shaped like the weight, [N] in [-1, 1]; 0 for zeros."""
    product = inner_product(op, layer, delta, layer.weight * reference)
    length = sensitivity_norms(op, layer, delta)[0]
    usual = float(np.linalg.norm(reference.astype(np.float64).reshape(-1)))
    return op.Div(product, op.Max(op.Mul(length, usual), float(np.finfo(np.float32).tiny)))
