"""Per-sample weight gradients, as batches of matrices that are worth multiplying."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff.gates import channel_sums, sum_positions
from sparsense.autodiff.layers import SCALES, Layer
from sparsense.autodiff.rule import Call
from sparsense.autodiff.rules.linear import swap
from sparsense.autodiff.rules.window import Window
from sparsense.autodiff.samples import samples_first, sum_parts
from sparsense.autodiff.shapes import all_known, dims, last_axis_order, rank
from sparsense.autodiff.unfold import patches
from sparsense.graph.build import Builder

LARGEST = 2**17
"""Weights of one block: its gradient is multiplied, squared and summed while it is still in the cache."""


@dataclass(frozen=True)
class Block:
    """Part of a layer's weights.

    Attributes:
        gradient: Per-sample gradient, [N, R, S].
        weight: The same weights in the same order, [R, S].
    """

    gradient: ir.Value
    weight: ir.Value


def weight_gradient(op: Builder, layer: Layer, delta: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Per-sample gradient of the weight as a batch of matrices, and the weight arranged to match.

    Args:
        op: Builder.
        layer: The layer.
        delta: Gradient of its output, as `differentiate` gives it.

    Returns:
        The gradient `[N, R, S]` and the weight `[R, S]` with the same rows and columns. Any norm, product or sum over
        all weights of the layer may be taken of it; `R * S` is the number of weights.
    """
    block = join(op, blocks(op, layer, delta))
    return block.gradient, block.weight


def blocks(op: Builder, layer: Layer, delta: ir.Value) -> list[Block]:
    """The gradient in parts, whose rows together are all of it: norms need not hold it at once."""
    parts = _PARTS.get(layer.node.op_type, _scale)(op, layer, delta)
    return [Block(sum_parts(op, part.gradient, layer.order), part.weight) for part in parts]


def join(op: Builder, parts: Sequence[Block]) -> Block:
    """Blocks below each other."""
    if len(parts) == 1:
        return parts[0]
    gradient = op.Concat(*(part.gradient for part in parts), axis=1)
    return Block(gradient, op.Concat(*(part.weight for part in parts), axis=0))


def weight_value(op: Builder, layer: Layer) -> ir.Value:
    """The layer's weight as a value: the graph's own constant, unless the layer was given another one."""
    for value in layer.node.inputs[:2]:
        if value is not None and value.const_value is not None and value is not layer.activation:
            return value if np.array_equal(value.const_value.numpy(), layer.weight) else op.constant(layer.weight)
    return op.constant(layer.weight)


# --- matrix products: dW = sum over positions of x^T delta ------------------------------------------------------------


def _dense(op: Builder, layer: Layer, delta: ir.Value) -> list[Block]:
    weight = weight_value(op, layer)
    x, delta = (samples_first(op, value, layer.order) for value in (layer.activation, delta))
    if layer.node.op_type == "Gemm":
        alpha = layer.node.attributes.get_float("alpha", 1.0)
        delta = delta if alpha == 1.0 else op.Mul(delta, alpha)
        weight = swap(op, weight) if layer.node.attributes.get_int("transB") else weight
    if layer.channel_axis != rank(delta) - 1:  # y = W x: the same with rows and columns exchanged
        x, delta, weight = _columns_last(op, x), _columns_last(op, delta), swap(op, weight)
    into, out = dims(weight)
    if rank(x) == 2:  # one position: an outer product
        return [Block(op.Mul(op.Unsqueeze(x, [2]), op.Unsqueeze(delta, [1])), weight)]
    x, delta = op.Reshape(x, [0, -1, into]), op.Reshape(delta, [0, -1, out])
    if into >= out:
        return [Block(op.MatMul(op.Transpose(x, perm=[0, 2, 1]), delta), weight)]
    return [Block(op.MatMul(op.Transpose(delta, perm=[0, 2, 1]), x), swap(op, weight))]


def _columns_last(op: Builder, value: ir.Value) -> ir.Value:
    """[N, ..., I, n] -> [N, ..., n, I]."""
    return op.Transpose(value, perm=last_axis_order(rank(value) - 2, rank(value)))


# --- convolutions: dW = sum over positions of patch^T delta, for each row of the kernel -------------------------------


def _convolution(op: Builder, layer: Layer, delta: ir.Value) -> list[Block]:
    window = Window.of(Call.of(layer.node, op.opset), layer.weight.shape[2:])
    if window.group > 1 and layer.weight.shape[1] == 1:
        return _depthwise(op, layer, delta, window)
    return _patch_products(op, layer.activation, delta, weight_value(op, layer), window)


def _transposed(op: Builder, layer: Layer, delta: ir.Value) -> list[Block]:
    """The adjoint of a convolution: input and gradient exchange their parts."""
    window = Window.of(Call.of(layer.node, op.opset), layer.weight.shape[2:])
    return _patch_products(op, delta, layer.activation, weight_value(op, layer), window)


def _patch_products(op: Builder, x: ir.Value, d: ir.Value, weight: ir.Value, window: Window) -> list[Block]:
    """One block for every tap of the leading kernel axes; the taps of the last axis are side by side in it."""
    tall = dims(weight)[1] * window.kernel[-1] >= dims(weight)[0] // window.group  # the longer side is not repacked
    found = []
    for part in patches(op, x, d, window):
        arranged = _arranged(op, weight, part.tap, window, tall=tall)
        rows, columns = (part.x, part.d) if tall else (part.d, part.x)
        if window.group > 1:
            product = op.Reshape(op.MatMul(rows, swap(op, columns)), [0, *dims(arranged)])
            found.append(Block(product, arranged))
        else:
            found += _in_cache(op, rows, swap(op, columns), arranged)
    return found


def _in_cache(op: Builder, rows: ir.Value, columns: ir.Value, weight: ir.Value) -> list[Block]:
    """The product rows * columns in blocks of rows."""
    count, width = dims(weight)
    pieces = -(-count * width // LARGEST)
    if pieces == 1:
        return [Block(op.MatMul(rows, columns), weight)]
    ends = [count * piece // pieces for piece in range(pieces + 1)]
    return [
        Block(op.MatMul(op.Slice(rows, [a], [b], [1]), columns), op.Slice(weight, [a], [b], [0]))
        for a, b in pairwise(ends)
    ]


def _arranged(op: Builder, weight: ir.Value, tap: int, window: Window, *, tall: bool) -> ir.Value:
    """[O, I/g, *kernel] -> one leading tap, [g * last * I/g, O/g] or, if not `tall`, [g * O/g, last * I/g]."""
    out, per_group, *kernel = dims(weight)
    group, taps = window.group, prod(kernel[:-1])
    flat = op.Reshape(weight, [group, out // group, per_group, taps, kernel[-1]])
    one = op.Gather(flat, np.asarray(tap), axis=3)  # g, O/g, I/g, last
    moved = op.Transpose(one, perm=[0, 3, 2, 1] if tall else [0, 1, 3, 2])
    wide = kernel[-1] * per_group
    return op.Reshape(moved, [group * wide, out // group] if tall else [out, wide])


# --- depthwise: one number per channel and tap ------------------------------------------------------------------------


def _depthwise(op: Builder, layer: Layer, delta: ir.Value, window: Window) -> list[Block]:
    """dL/dw[o, tap] = sum over positions of z * delta, where z is what the outputs saw at that tap.

    All of it stays in the runtime's blocked layout, where a depthwise convolution costs little more than a copy;
    matrix products would have one column.
    """
    out = layer.weight.shape[0]
    products = [op.Mul(_seen(op, layer, window, tap), delta) for tap in np.ndindex(*window.kernel)]
    gradient = op.Reshape(channel_sums(op, layer, products), [-1, len(products), out])
    weight = op.Transpose(op.Reshape(weight_value(op, layer), [out, -1]), perm=[1, 0])
    return [Block(gradient, weight)]


def _seen(op: Builder, layer: Layer, window: Window, tap: tuple[int, ...]) -> ir.Value:
    """The input that each output of a depthwise convolution sees at one tap, by the smallest convolution that picks it.

    Output q sees the input stride * q - begin + tap * dilation. Padding takes an offset before the input, the kernel
    one behind it, and also what the input has behind the last position.
    """
    out, sizes, made = layer.weight.shape[0], dims(layer.activation)[2:], dims(layer.output)[2:]
    if not all_known([*sizes, *made]):
        return with_weight(op, layer, _one_hot(op, layer, window.kernel, tap))
    offsets = [t * axis.dilation - axis.begin for t, axis in zip(tap, window.axes, strict=True)]
    begins, picks = [max(-offset, 0) for offset in offsets], [max(offset, 0) for offset in offsets]
    behind = [
        (q - 1) * axis.stride + 1 + offset - size
        for q, axis, offset, size in zip(made, window.axes, offsets, sizes, strict=True)
    ]
    kernel = [pick + 1 + max(-end, 0) for pick, end in zip(picks, behind, strict=True)]
    if max(*kernel, *window.strides) == 1 and window.group == out:
        return layer.activation
    pads = [*begins, *(max(end, 0) for end in behind)]
    one = _one_hot(op, layer, kernel, picks)
    return op.Conv(layer.activation, one, kernel_shape=kernel, pads=pads, strides=window.strides, group=window.group)


def _one_hot(op: Builder, layer: Layer, kernel: Sequence[int], place: Sequence[int]) -> ir.Value:
    """Kernels [O, 1, *kernel] with 1 at one place, written as a node on one of them."""
    one = np.zeros((1, 1, *kernel), layer.weight.dtype)
    one[(0, 0, *place)] = 1
    return op.Expand(one, [layer.weight.shape[0], 1, *kernel])


# --- scales of normalisations -----------------------------------------------------------------------------------------


def _scale(op: Builder, layer: Layer, delta: ir.Value) -> list[Block]:
    """With y = scale * z + bias: the rule's own product for the scale, before it is summed over the samples."""
    if layer.node.op_type not in SCALES:
        raise ValueError(f"{layer.node.op_type} has no weight gradient")
    product = op.Mul(delta, standardised_input(op, layer))
    total = sum_positions(op, layer, product)
    return [Block(op.Unsqueeze(total, [1]), op.Unsqueeze(weight_value(op, layer), [0]))]


def standardised_input(op: Builder, layer: Layer) -> ir.Value:
    """What the scale of a normalisation multiplies."""
    return with_weight(op, layer, np.ones_like(layer.weight))


def with_weight(op: Builder, layer: Layer, weight: NDArray[Any] | ir.Value) -> ir.Value:
    """The layer's product with another weight, without bias."""
    node = layer.node
    other = weight if isinstance(weight, ir.Value) else op.constant(weight.astype(layer.weight.dtype))
    operands: list[ir.Value | None] = [value if value is layer.activation else other for value in node.inputs[:2]]
    if node.op_type in SCALES and len(node.inputs) > 2:
        operands += [op.constant(np.zeros_like(layer.weight)), *node.inputs[3:]]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return op.call(node.op_type, *operands, **attributes)[0]


_PARTS: dict[str, Callable[[Builder, Layer, ir.Value], list[Block]]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _dense,
    "MatMul": _dense,
}
