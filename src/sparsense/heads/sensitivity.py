"""Per-sample sensitivities of all layers, and their norms: what SensNorm and the sensitivity profile have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from sparsense.autodiff import Layer, differentiate, gate_sensitivities, weight_gradient
from sparsense.autodiff.norms import SAFE, p_norm, power, power_scale, root, sensitivity_norms
from sparsense.autodiff.shapes import dims
from sparsense.autodiff.weight_gradient import blocks
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import number, one_of
from sparsense.heads.contributions import Contributions, channel_names, channels_of, shared_out
from sparsense.heads.head import Array

TINY = 1e-30  # a layer that a dead input does not reach has norm 0


def sensitivities(network: ForwardGraph, layers: Sequence[Layer], seed: ir.Value, *, structure: str) -> list[ir.Value]:
    """Signed per-sample sensitivities of every layer: `w * dL/dw` [N, R, S], or of the channels' gates [N, O].

    Args:
        network: The graph.
        layers: Whose weights.
        seed: Gradient of the loss with respect to the output, [N, K].
        structure: `weight`, or `channel` for gates (several times cheaper).
    """
    op, deltas = network.op, _deltas(network, layers, seed)
    if structure == "channel":
        return gate_sensitivities(op, layers, deltas)
    return [op.Mul(*weight_gradient(op, layer, deltas[layer.output])) for layer in layers]


def divided_by_gates(network: ForwardGraph, layers: Sequence[Layer], seed: ir.Value, parts: ir.Value) -> Contributions:
    """What every layer adds, [N, L], divided among its channels by the magnitudes of their gates' sensitivities.

    A gate's sensitivity is the sum of those of its channel's weights: what a change of the whole channel would do.
    """
    op = network.op
    gates = op.Abs(concatenated(op, sensitivities(network, layers, seed, structure="channel")))
    value = shared_out(op, parts, gates, channels_of(layers))
    return Contributions("channels", channel_names(layers), value)


def gradients(network: ForwardGraph, layers: Sequence[Layer], seed: ir.Value) -> list[ir.Value]:
    """Per-sample weight gradients dL/dw of every layer, [N, R, S]; arguments as above."""
    deltas = _deltas(network, layers, seed)
    return [weight_gradient(network.op, layer, deltas[layer.output])[0] for layer in layers]


def layer_norms(
    network: ForwardGraph, layers: Sequence[Layer], seed: ir.Value, orders: Sequence[float], *, structure: str
) -> ir.Value:
    """p-norms of every layer's sensitivities, layer by layer: [N, L * number of orders]; arguments as above."""
    op, deltas = network.op, _deltas(network, layers, seed)
    if structure == "channel":
        gates = gate_sensitivities(op, layers, deltas)
        return _norms_side_by_side(op, concatenated(op, gates), _widths(gates), orders)
    found = [sensitivity_norms(op, layer, deltas[layer.output], orders) for layer in layers]
    return _as_columns(op, [norm for norms in found for norm in norms])


def gradient_norms(network: ForwardGraph, layers: Sequence[Layer], seed: ir.Value) -> ir.Value:
    """2-norms of every layer's weight gradient, [N, L]; arguments as above."""
    op, deltas = network.op, _deltas(network, layers, seed)
    found = [sensitivity_norms(op, layer, deltas[layer.output], times_weight=False) for layer in layers]
    return _as_columns(op, [norm for norms in found for norm in norms])


def layer_distances(
    network: ForwardGraph,
    layers: Sequence[Layer],
    seed: ir.Value,
    references: Sequence[Array],
    *,
    order: float,
    structure: str,
    signed: bool,
) -> ir.Value:
    """p-norms of what every layer's sensitivities differ from fixed ones, [N, L].

    Args:
        network: The graph.
        layers: Whose weights.
        seed: Gradient of the loss with respect to the output, [N, K].
        references: Shaped as `sensitivities` gives them for one input.
        order: Of the norm.
        structure: As above.
        signed: False compares magnitudes.
    """
    op, deltas = network.op, _deltas(network, layers, seed)
    magnitude = (lambda value: value) if signed else op.Abs
    fixed = [(array if signed else np.abs(array)).astype(np.float32) for array in references]
    if structure == "channel":
        gates = gate_sensitivities(op, layers, deltas)
        difference = op.Sub(magnitude(concatenated(op, gates)), np.concatenate(fixed))
        return _norms_side_by_side(op, difference, _widths(gates), [order])
    norms = []
    for layer, array in zip(layers, fixed, strict=True):
        found = [op.Mul(block.gradient, block.weight) for block in blocks(op, layer, deltas[layer.output])]
        rows = np.split(array, np.cumsum([dims(value)[1] for value in found])[:-1])
        parts = [op.Sub(magnitude(value), part) for value, part in zip(found, rows, strict=True)]
        norms.append(p_norm(op, parts, order, scale=power_scale(order, array.size)))
    return _as_columns(op, norms)


def _deltas(network: ForwardGraph, layers: Sequence[Layer], seed: ir.Value) -> Mapping[ir.Value, ir.Value]:
    return differentiate(network.op, of=network.output, wrt=[layer.output for layer in layers], seed=seed)


def _widths(values: Sequence[ir.Value]) -> list[int]:
    return [dims(value)[1] for value in values]  # known, as numbers of channels are


def _as_columns(op: Builder, rows: Sequence[ir.Value]) -> ir.Value:
    """Values [N] side by side, [N, number of values]."""
    if len(rows) == 1:
        return op.Unsqueeze(rows[0], [1])
    return op.Transpose(op.Reshape(op.Concat(*rows, axis=0), [len(rows), -1]), perm=[1, 0])


def _norms_side_by_side(op: Builder, row: ir.Value, widths: Sequence[int], orders: Sequence[float]) -> ir.Value:
    """Norms of the parts of rows [N, sum of widths], part by part: [N, parts * number of orders].

    Powers of all parts are summed at once, through a matrix that knows which number belongs to which part.
    """
    members = np.repeat(np.eye(len(widths), dtype=np.float32), widths, axis=0)
    columns = []
    for order in orders:
        if order > SAFE:
            parts = op.call("Split", row, list(widths), axis=1, outputs=len(widths))
            columns.append(_as_columns(op, [p_norm(op, [part], order) for part in parts]))
            continue
        scale = power_scale(order, max(widths))
        powers = power(op, row if scale == 1 else op.Mul(row, scale), order)
        norms = root(op, op.MatMul(powers, members), order)
        columns.append(norms if scale == 1 else op.Mul(norms, 1 / scale))
    if len(columns) == 1:
        return columns[0]
    return op.Flatten(op.Concat(*(op.Unsqueeze(column, [2]) for column in columns), axis=2))


def check_order(order: float) -> float:
    """A norm's order: at least 1, `inf` allowed."""
    order = float(number("the order p of a norm", order))
    if not order >= 1:
        raise ValueError(f"the order p of a norm must be at least 1 (inf allowed); got {order}")
    return order


def check_structure(structure: str) -> str:
    """`weight` or `channel`."""
    return one_of("structure", structure, ("weight", "channel"))


def concatenated(op: Builder, columns: Sequence[ir.Value]) -> ir.Value:
    """Columns [N, d] side by side, [N, D]."""
    return op.Concat(*columns, axis=1) if len(columns) > 1 else columns[0]
