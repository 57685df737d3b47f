"""Per-layer norms of per-sample sensitivities: what SensNorm and the sensitivity profile have in common."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, sqrt

import onnx_ir as ir

from sparsense.autodiff import Layer, differentiate, gate_sensitivity, weight_gradient
from sparsense.autodiff.shapes import dims
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import one_of

SAFE = 5  # highest order whose powers stay in the range of float32 for any sensitivity that occurs
TINY = 1e-30  # a layer that a dead input does not reach has norm 0


def sensitivities(network: ForwardGraph, layers: Sequence[Layer], seed: ir.Value, *, structure: str) -> list[ir.Value]:
    """Signed per-sample sensitivities of every layer: `w * dL/dw` [N, R, S], or of the channels' gates [N, 1, O].

    Args:
        network: The graph.
        layers: Whose weights.
        seed: Gradient of the loss with respect to the output, [N, K].
        structure: `weight`, or `channel` for gates (several times cheaper).
    """
    op, deltas = network.op, _deltas(network, layers, seed)
    if structure == "channel":
        return [op.Unsqueeze(gate_sensitivity(op, *pair), [1]) for pair in zip(layers, deltas, strict=True)]
    return [op.Mul(*weight_gradient(op, *pair)) for pair in zip(layers, deltas, strict=True)]


def gradients(network: ForwardGraph, layers: Sequence[Layer], seed: ir.Value) -> list[ir.Value]:
    """Per-sample weight gradients dL/dw of every layer, [N, R, S]; arguments as above."""
    deltas = _deltas(network, layers, seed)
    return [weight_gradient(network.op, *pair)[0] for pair in zip(layers, deltas, strict=True)]


def _deltas(network: ForwardGraph, layers: Sequence[Layer], seed: ir.Value) -> list[ir.Value]:
    found = differentiate(network.op, of=network.output, wrt=[layer.output for layer in layers], seed=seed)
    return [found[layer.output] for layer in layers]


def norms(op: Builder, value: ir.Value, orders: Sequence[float]) -> list[ir.Value]:
    """p-norms over all but the batch axis of [N, R, S], one [N, 1] for each order.

    Powers are taken of values scaled by the root of their number, or for high orders by their maximum, so that they
    neither vanish nor overflow in float32.
    """
    _, rows, columns = dims(value)  # known, as weights are
    scale = sqrt(rows * columns)
    magnitude = op.Mul(op.Abs(value), scale)
    return [op.Mul(_norm(op, magnitude, order), 1 / scale) for order in orders]


def _norm(op: Builder, magnitude: ir.Value, order: float) -> ir.Value:
    if order == 1:
        return _total(op, magnitude)
    if order <= SAFE:
        total = _total(op, _power(op, magnitude, order))
        return op.Sqrt(total) if order == 2 else op.Pow(total, 1 / order)
    largest = op.ReduceMax(magnitude, [1, 2], keepdims=1)
    column = op.Squeeze(largest, [2])
    if order == inf:
        return column
    relative = op.Div(magnitude, op.Max(largest, TINY))
    return op.Mul(column, op.Pow(_total(op, _power(op, relative, order)), 1 / order))


def _total(op: Builder, value: ir.Value) -> ir.Value:
    """[N, R, S] -> [N, 1]; ReduceSum adds pairwise, where ReduceL2 would lose two digits over a large layer."""
    return op.Squeeze(op.ReduceSum(value, [1, 2], keepdims=1), [2])


def _power(op: Builder, value: ir.Value, order: float) -> ir.Value:
    """Small whole powers by multiplication, which is much faster than Pow."""
    if order != int(order) or order > 8:
        return op.Pow(value, order)
    square = op.Mul(value, value)
    result = value if order % 2 else None
    for _ in range(int(order) // 2):
        result = square if result is None else op.Mul(result, square)
    return result  # type: ignore[return-value]  # order >= 2 enters the loop


def check_order(order: float) -> float:
    """A norm's order: at least 1, `inf` allowed."""
    order = float(order)
    if not order >= 1:
        raise ValueError(f"the order p of a norm must be at least 1 (inf allowed); got {order}")
    return order


def check_structure(structure: str) -> str:
    """`weight` or `channel`."""
    return one_of("structure", structure, ("weight", "channel"))


def concatenated(op: Builder, columns: Sequence[ir.Value]) -> ir.Value:
    """Columns [N, d] side by side, [N, D]."""
    return op.Concat(*columns, axis=1) if len(columns) > 1 else columns[0]
