"""Per-sample weight sensitivities as graph nodes: what each weighted layer did to one sample's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff.differentiate import ancestors
from sparsense.autodiff.rule import Call
from sparsense.autodiff.rules.window import Window
from sparsense.autodiff.shapes import dims, rank
from sparsense.errors import GraphError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """A node that multiplies its input with a constant weight.

    Attributes:
        name: The weight's name in the graph, without a trailing `.weight`.
        node: The node.
        activation: Its input.
        output: Its output.
        weight: The constant, in the node's own layout.
    """

    name: str
    node: ir.Node
    activation: ir.Value
    output: ir.Value
    weight: NDArray[Any]

    @property
    def bias(self) -> NDArray[Any] | None:
        """What the node itself adds to the product, if it is a constant."""
        value = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        return None if value is None or value.const_value is None else value.const_value.numpy()


def weighted_layers(network: ForwardGraph, *, layers: Sequence[str] | int | None = None) -> list[Layer]:
    """The layers of a network with a constant weight, in the order in which they run.

    Args:
        network: The graph.
        layers: Name patterns (`layer3.*`) or operator types; or the number of last layers; default: all.

    Raises:
        GraphError: No layer fits.
    """
    forward = ancestors(network.output)  # nodes that a head added behind the output are not layers
    found = [layer for node in network.model.graph if node in forward and (layer := _as_layer(node)) is not None]
    chosen = _choose(found, layers)
    if not chosen:
        names = ", ".join(layer.name for layer in found) or "none"
        raise GraphError(
            f"looking for layers with constant weights: expected some to match {layers!r}, found none. Layers of this network: {names}"
        )
    return chosen


def _choose(found: list[Layer], layers: Sequence[str] | int | None) -> list[Layer]:
    if layers is None:
        return found
    if isinstance(layers, int):
        return found[-layers:] if layers > 0 else []
    return [
        layer
        for layer in found
        if any(fnmatch(layer.name, pattern) or layer.node.op_type == pattern for pattern in layers)
    ]


def _as_layer(node: ir.Node) -> Layer | None:
    if node.domain or node.op_type not in WEIGHTED:
        return None
    activation, weight = node.inputs[0], node.inputs[1]
    if activation is None or weight is None or weight.const_value is None or activation.const_value is not None:
        return None
    if node.op_type == "Gemm" and node.attributes.get_int("transA"):
        return None
    if node.op_type == "MatMul" and (rank(weight) != 2 or rank(activation) < 2):
        return None
    name = (weight.name or node.name or "").removesuffix(".weight")
    return Layer(name, node, activation, node.outputs[0], weight.const_value.numpy())


# --- gates: one multiplier per output channel ------------------------------------------------------------------------


def gate_sensitivity(op: Builder, layer: Layer, delta: ir.Value) -> ir.Value:
    """Derivative with respect to a gate on each output channel of the product, at gate 1: [N, O].

    s[n, o] = sum over positions p of (z[n, o, p] - bias[o]) * delta[n, o, p]

    It equals the sum of `w * dL/dw` over the channel's weights, and needs no weight gradient.
    """
    product = op.Mul(layer.output, delta)
    if layer.node.op_type in ("Conv", "ConvTranspose"):
        return _conv_gate(op, layer, product, delta)
    bias = layer.bias
    if bias is not None and bias.any():
        beta = layer.node.attributes.get_float("beta", 1.0)
        product = op.Sub(product, op.Mul(delta, (beta * bias).astype(bias.dtype)))
    between = list(range(1, rank(layer.output) - 1))  # positions lie between the batch and the features
    return op.ReduceSum(product, between, keepdims=0) if between else product


def _conv_gate(op: Builder, layer: Layer, product: ir.Value, delta: ir.Value) -> ir.Value:
    """GlobalAveragePool stays in the runtime's blocked layout, which ReduceSum does not."""
    total = op.GlobalAveragePool(product)
    bias = layer.bias
    if bias is not None and bias.any():
        total = op.Sub(total, op.Mul(op.GlobalAveragePool(delta), bias.reshape(1, -1, *[1] * (rank(layer.output) - 2))))
    return op.Mul(op.Flatten(total, axis=1), positions(op, layer.output))


def positions(op: Builder, value: ir.Value) -> Any:
    """The number of spatial positions of [N, C, *P]."""
    sizes = dims(value)[2:]
    if all(isinstance(size, int) for size in sizes):
        return float(prod(sizes))
    return op.Cast(op.ReduceProd(op.Shape(value, start=2), keepdims=0), to=int(value.dtype or ir.DataType.FLOAT))


# --- weights ---------------------------------------------------------------------------------------------------------


def weight_gradient(op: Builder, layer: Layer, delta: ir.Value) -> tuple[ir.Value, NDArray[Any]]:
    """Per-sample gradient of the weight as a batch of matrices, and the weight arranged to match.

    Args:
        op: Builder.
        layer: The layer.
        delta: Gradient of its output, as `differentiate` gives it.

    Returns:
        The gradient `[N, R, S]` and the weight `[R, S]` with the same rows and columns. Any norm, product or sum over
        all weights of the layer may be taken of it; `R * S` is the number of weights.
    """
    return _GRADIENTS[layer.node.op_type](op, layer, delta)


def _dense(op: Builder, layer: Layer, delta: ir.Value) -> tuple[ir.Value, NDArray[Any]]:
    """Y = x W: dW = x^T delta, summed over the positions of each sample."""
    weight = layer.weight
    if layer.node.op_type == "Gemm":
        weight = weight * weight.dtype.type(layer.node.attributes.get_float("alpha", 1.0))
        weight = weight.T if layer.node.attributes.get_int("transB", 0) else weight
        alpha = layer.node.attributes.get_float("alpha", 1.0)
        delta = delta if alpha == 1.0 else op.Mul(delta, alpha)
        weight = weight / weight.dtype.type(alpha)
    into, out = weight.shape
    x = op.Reshape(
        layer.activation,
        [-1 if rank(layer.activation) == 2 else 0, 1 if rank(layer.activation) == 2 else -1, into],
    )
    d = op.Reshape(delta, [-1 if rank(layer.activation) == 2 else 0, 1 if rank(layer.activation) == 2 else -1, out])
    if rank(layer.activation) == 2:  # an outer product: broadcasting is cheaper than a batch of 1-column products
        return op.Mul(op.Reshape(layer.activation, [-1, into, 1]), d), weight
    return op.MatMul(op.Transpose(x, perm=[0, 2, 1]), d), weight


def _convolution(op: Builder, layer: Layer, delta: ir.Value) -> tuple[ir.Value, NDArray[Any]]:
    """dW[o, (j, i)] = sum over p of delta[o, p] * patch[(j, i), p], per group."""
    weight = layer.weight
    out, per_group, *kernel = weight.shape
    window = Window.of(Call.of(layer.node, op.opset), kernel)
    patches = unfold(op, layer.activation, layer.output, window)  # [N, taps, I, P]
    return _patch_products(op, patches, delta, weight, window.group)


def _patch_products(
    op: Builder, patches: ir.Value, delta: ir.Value, weight: NDArray[Any], group: int
) -> tuple[ir.Value, NDArray[Any]]:
    """Multiply patches [N, taps, g * I/g, P] with gradients [N, g * O/g, *P] group by group."""
    out, per_group, *kernel = weight.shape
    taps = prod(kernel)
    arranged = np.moveaxis(weight.reshape(group, out // group, per_group, taps), 3, 2)  # g, O/g, taps, I/g
    if group == 1:
        rows = op.Reshape(delta, [0, out, -1])
        columns = op.Reshape(patches, [0, taps * per_group, -1])
        gradient = op.MatMul(rows, op.Transpose(columns, perm=[0, 2, 1]))
        return gradient, arranged.reshape(out, taps * per_group)
    rows = op.Reshape(delta, [0, group, out // group, -1])
    split = op.Reshape(patches, [0, taps, group, per_group, -1])
    columns = op.Reshape(op.Transpose(split, perm=[0, 2, 4, 1, 3]), [0, group, -1, taps * per_group])
    gradient = op.Reshape(op.MatMul(rows, columns), [0, out, taps * per_group])
    return gradient, arranged.reshape(out, taps * per_group)


def unfold(op: Builder, x: ir.Value, y: ir.Value, window: Window) -> ir.Value:
    """Every kernel position's view of the input, [N, taps, C, P], by shifted slices of the padded input.

    Args:
        op: Builder.
        x: `[N, C, *H]`.
        y: The output of the window's convolution over x: gives the number of positions.
        window: The geometry.
    """
    half = len(window.axes)
    padded = op.Pad(x, [0, 0, *window.pads[:half], 0, 0, *window.pads[half:]]) if any(window.pads) else x
    views = []
    for tap in np.ndindex(*window.kernel):
        starts = [j * d for j, d in zip(tap, window.dilations, strict=True)]
        views.append(op.Unsqueeze(_shifted(op, padded, y, starts, window.strides), [1]))
    stacked = op.Concat(*views, axis=1) if len(views) > 1 else views[0]
    return op.Reshape(stacked, [0, len(views), dims(x)[1], -1])


def _shifted(op: Builder, padded: ir.Value, y: ir.Value, starts: list[int], strides: Sequence[int]) -> ir.Value:
    axes = list(range(2, rank(padded)))
    sizes = dims(y)[2:]
    if all(isinstance(size, int) for size in sizes):
        ends: Any = [
            start + (size - 1) * stride + 1 for start, size, stride in zip(starts, sizes, strides, strict=True)
        ]
    else:
        steps = op.Mul(op.Sub(op.Shape(y, start=2), np.ones(1, np.int64)), np.asarray(strides, np.int64))
        ends = op.Add(steps, np.asarray(starts, np.int64) + 1)
    if list(ends) == dims(padded)[2:] and not any(starts) if isinstance(ends, list) else False:
        return padded if all(stride == 1 for stride in strides) else op.Slice(padded, starts, ends, axes, list(strides))
    return op.Slice(padded, starts, ends, axes, list(strides))


def _transposed(op: Builder, layer: Layer, delta: ir.Value) -> tuple[ir.Value, NDArray[Any]]:
    """The adjoint of a convolution: input and gradient exchange their parts."""
    weight = layer.weight  # [I, O/g, *k] = the weight [out, in/g, *k] of the convolution from delta to the input
    window = Window.of(Call.of(layer.node, op.opset), weight.shape[2:])
    patches = unfold(op, delta, layer.activation, window)
    return _patch_products(op, patches, layer.activation, weight, window.group)


_GRADIENTS = {"Conv": _convolution, "ConvTranspose": _transposed, "Gemm": _dense, "MatMul": _dense}
