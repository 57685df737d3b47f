"""Gates: the sensitivity of one multiplier per output channel, without any weight gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff.layers import Layer
from sparsense.autodiff.samples import samples_first, sum_parts
from sparsense.autodiff.shapes import all_known, dims, rank
from sparsense.graph.build import Builder


def gate_sensitivity(op: Builder, layer: Layer, delta: ir.Value) -> ir.Value:
    """Derivative with respect to a gate on each output channel of the product, at gate 1: [N, O].

    s[n, o] = sum over positions p of (z[n, o, p] - bias[o]) * delta[n, o, p]

    It equals the sum of `w * dL/dw` over the channel's weights, and needs no weight gradient.
    """
    return gate_sensitivities(op, [layer], {layer.output: delta})[0]


def gate_sensitivities(op: Builder, layers: Sequence[Layer], deltas: Mapping[ir.Value, ir.Value]) -> list[ir.Value]:
    """The same for many layers at once, [N, O] each; with many small layers that is a third faster.

    Args:
        op: Builder.
        layers: Whose gates.
        deltas: Gradient of every layer's output, as `differentiate` gives them.
    """
    joint = [layer for layer in layers if _is_averaged(layer)]
    averaged = iter(_averaged(op, joint, [deltas[layer.output] for layer in joint]) if joint else [])
    return [next(averaged) if _is_averaged(layer) else _direct(op, layer, deltas[layer.output]) for layer in layers]


# --- convolutions over maps of known size: sums as averages, which stay in the runtime's blocked layout --------------


def _is_averaged(layer: Layer) -> bool:
    shape = dims(layer.output)
    return layer.channel_axis == 1 and len(shape) > 2 and all_known(shape[1:]) and layer.order == "first"


def _averaged(op: Builder, layers: Sequence[Layer], deltas: Sequence[ir.Value]) -> list[ir.Value]:
    """Averages of all layers side by side, scaled and shifted together, and split again."""
    products = [op.GlobalAveragePool(op.Mul(_passed(layer, d), d)) for layer, d in zip(layers, deltas, strict=True)]
    counts = [np.float32(np.prod(dims(layer.output)[2:])) for layer in layers]
    widths = [dims(layer.output)[1] for layer in layers]
    total = op.Mul(_side_by_side(op, products), np.repeat(np.asarray(counts), widths))
    shifts = [_shift(layer) * count for layer, count in zip(layers, counts, strict=True)]
    if any(shift.any() for shift in shifts):
        shift = op.Mul(_side_by_side(op, [op.GlobalAveragePool(d) for d in deltas]), np.concatenate(shifts))
        total = op.Sub(total, shift)
    return [total] if len(layers) == 1 else list(op.call("Split", total, widths, axis=1, outputs=len(layers)))


def _side_by_side(op: Builder, averages: Sequence[ir.Value]) -> ir.Value:
    columns = [op.Reshape(value, [0, 0, 1, 1]) if rank(value) != 4 else value for value in averages]
    return op.Flatten(op.Concat(*columns, axis=1) if len(columns) > 1 else columns[0])


def _shift(layer: Layer) -> NDArray[Any]:
    """What the node adds to each channel of the product; zeros where it adds nothing."""
    width = dims(layer.output)[layer.channel_axis]
    bias = np.zeros(1, layer.weight.dtype) if layer.bias is None else layer.bias.reshape(-1)
    beta = layer.node.attributes.get_float("beta", 1.0) if layer.node.op_type == "Gemm" else 1.0
    return np.broadcast_to(bias * bias.dtype.type(beta), (width,))


def _passed(layer: Layer, delta: ir.Value) -> ir.Value:
    """A value whose product with delta is that of the layer's output.

    Behind a ReLU or a clip that is its own output: where the two differ, delta is 0. The layer's output need then not
    be kept, and the runtime runs convolution and activation as one.
    """
    return next((cut for cut in _masked_by(delta) if layer.output in _inputs(cut, "Relu", "Clip")), layer.output)


def _masked_by(delta: ir.Value) -> list[ir.Value]:
    """What the masks were made of that a gradient was multiplied with last."""
    factors = _inputs(delta, "Mul")
    inner = [x for factor in factors for x in _inputs(factor, "Mul")]
    return [x for factor in (*factors, *inner) for x in _inputs(factor, "HardSigmoid")]


def _inputs(value: ir.Value, *op_types: str) -> list[ir.Value]:
    node = value.producer()
    return [x for x in node.inputs if x is not None] if node is not None and node.op_type in op_types else []


# --- everything else: free sizes, matrix products, merged batches ----------------------------------------------------


def _direct(op: Builder, layer: Layer, delta: ir.Value) -> ir.Value:
    output, shift = layer.output, _shift(layer)
    if shift.any():
        output = op.Sub(output, shift.reshape(-1, *[1] * (rank(output) - 1 - layer.channel_axis)))
    return sum_positions(op, layer, op.Mul(output, delta))


def channel_sums(op: Builder, layer: Layer, products: Sequence[ir.Value]) -> ir.Value:
    """Sums over the positions of each sample, of several products shaped like the layer's output, side by side."""
    if not _is_averaged(layer):
        return op.Concat(*(sum_positions(op, layer, product) for product in products), axis=1)
    count = float(np.prod(dims(layer.output)[2:]))
    return op.Mul(_side_by_side(op, [op.GlobalAveragePool(product) for product in products]), count)


def sum_positions(op: Builder, layer: Layer, product: ir.Value) -> ir.Value:
    """Sum a product shaped like the layer's output over the positions of each sample, [N, channels]."""
    product = samples_first(op, product, layer.order)
    total = op.ReduceSum(product, layer.position_axes, keepdims=0) if layer.position_axes else product
    return sum_parts(op, total, layer.order)
