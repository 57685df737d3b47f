"""Which nodes of a network are weighted layers, and how a user names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff.differentiate import ancestors
from sparsense.autodiff.samples import Order, sample_orders
from sparsense.autodiff.shapes import dims, rank
from sparsense.errors import GraphError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SCALES = (
    "BatchNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "RMSNormalization",
)


@dataclass(frozen=True)
class Layer:
    """A node that multiplies its input with a constant weight.

    Attributes:
        name: The weight's name in the graph, without a trailing `.weight`.
        node: The node.
        activation: Its input.
        output: Its output.
        weight: The constant, in the node's own layout.
        order: How the samples lie in its input and output.
        uses: How often it runs. One weight that several nodes use is one layer: its activations and outputs stand
            below each other, so that its gradient is the sum over all uses.
    """

    name: str
    node: ir.Node
    activation: ir.Value
    output: ir.Value
    weight: NDArray[Any]
    order: Order = "first"
    uses: int = 1

    @property
    def constant(self) -> ir.Value:
        """The weight's value in the graph."""
        return next(
            value
            for value in self.node.inputs[:2]
            if value is not None and value is not self.activation and value.const_value is not None
        )

    @property
    def bias(self) -> NDArray[Any] | None:
        """What the node itself adds to the product, if it is a constant."""
        value = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        return None if value is None or value.const_value is None else value.const_value.numpy()

    @property
    def channel_axis(self) -> int:
        """The axis of the output along which the layer's own channels lie; the others, but the first, are positions."""
        last = rank(self.output) - 1
        if self.node.op_type == "MatMul" and self.activation is self.node.inputs[1]:
            return last - 1  # the weight stands on the left
        return last if self.node.op_type in ("Gemm", "MatMul", "LayerNormalization", "RMSNormalization") else 1

    @property
    def position_axes(self) -> list[int]:
        """The axes of the output that are neither samples nor channels."""
        return [axis for axis in range(1, rank(self.output)) if axis != self.channel_axis]


def weighted_layers(network: ForwardGraph, *, layers: str | Sequence[str] | int | None = None) -> list[Layer]:
    """The layers of a network with a constant weight, in the order in which they run.

    Convolutions and matrix products are found by default; scales of normalisations only when their name or operator
    type is asked for. Nodes that share one weight are one layer, at the place of the first: its sensitivity is the
    exact derivative by the weight, summed over all uses. (Where different normalisations were folded into the uses, the
    weights are no longer one, and every use is a layer.)

    Args:
        network: The graph.
        layers: Name patterns (`layer3.*`) or operator types; or the number of last layers; default: all.

    Raises:
        GraphError: No layer fits, or one is used in ways whose gradients cannot be summed.
    """
    forward = ancestors(network.output)  # nodes that a head added behind the output are not layers
    nodes = [node for node in network.model.graph if node in forward]
    asked = isinstance(layers, (str, Sequence))
    uses: dict[ir.Value, list[Layer]] = {}
    for layer in (layer for node in nodes if (layer := as_layer(node, scales=asked)) is not None):
        uses.setdefault(layer.constant, []).append(layer)
    found = [same[0] for same in uses.values()]
    chosen = _choose(found, [layers] if isinstance(layers, str) else layers)
    if not chosen:
        names = ", ".join(layer.name for layer in found) or "none"
        raise GraphError(
            f"looking for layers with constant weights: expected some to match {layers!r}, found none; "
            f"layers of this network: {names}"
        )
    chosen = [_shared(network.op, uses[layer.constant]) for layer in chosen]
    orders = sample_orders(network, [layer.activation for layer in chosen])
    return [_ordered(layer, order) for layer, order in zip(chosen, orders, strict=True)]


def _shared(op: Builder, uses: Sequence[Layer]) -> Layer:
    """One layer for all nodes that use one weight, as if it had run once on all their inputs."""
    if len(uses) == 1:
        return uses[0]
    first = uses[0]
    if len({_way(layer) for layer in uses}) > 1:
        nodes = ", ".join(f"{layer.node.name!r} on {dims(layer.activation)}" for layer in uses)
        raise GraphError(
            f"looking for layers with constant weights: expected the nodes that share the weight {first.name!r} to use "
            f"it alike, found {nodes} with other sizes, attributes or biases; restrict the head to other layers with "
            "layers=..., or store a copy of the weight for each node"
        )
    activation = op.Concat(*(layer.activation for layer in uses), axis=0)
    output = op.Concat(*(layer.output for layer in uses), axis=0)
    operands = [activation if value is first.activation else value for value in first.node.inputs]
    node = ir.node(first.node.op_type, operands, dict(first.node.attributes), name=first.node.name)
    return replace(first, node=node, activation=activation, output=output, uses=len(uses))


def _way(layer: Layer) -> tuple[object, ...]:
    """How a node uses its weight: two that do so alike can run as one."""
    attributes = sorted((name, repr(attribute.value)) for name, attribute in layer.node.attributes.items())
    others = tuple(id(value) for value in layer.node.inputs if value is not layer.activation)
    sides = tuple(str(dims(value)[1:]) for value in (layer.activation, layer.output))
    return (layer.node.op_type, repr(attributes), others, sides, layer.node.inputs[0] is layer.activation)


def _ordered(layer: Layer, order: Order) -> Layer:
    if order == "mixed" or (order == "second" and layer.channel_axis == 1):
        raise GraphError(
            f"looking for layers with constant weights: expected the samples of layer {layer.name!r} "
            f"({layer.node.op_type}) along its first axis, found activations {dims(layer.activation)} that cannot be "
            "told apart by sample; restrict the head to other layers with layers=..."
        )
    return replace(layer, order=order)


def _choose(found: list[Layer], layers: Sequence[str] | int | None) -> list[Layer]:
    if layers is None:
        return found
    if isinstance(layers, int):
        return found[-layers:] if layers > 0 else []
    products = [layer for layer in found if layer.node.op_type in PRODUCTS]
    scales = [layer for layer in found if layer.node.op_type in SCALES]
    named = [layer for layer in products if any(_fits(layer, pattern) for pattern in layers)]
    plain = [pattern for pattern in layers if not set(pattern) & set("*?[")]  # a wildcard never means a scale
    named += [layer for layer in scales if any(_fits(layer, pattern) for pattern in plain)]
    return [layer for layer in found if layer in named]


def _fits(layer: Layer, pattern: str) -> bool:
    return fnmatch(layer.name, pattern) or layer.node.op_type == pattern


def as_layer(node: ir.Node, *, scales: bool = False) -> Layer | None:
    """A node as a layer; None when it has no constant weight, or one that cannot be told apart by sample."""
    kinds = (*PRODUCTS, *SCALES) if scales else PRODUCTS
    if node.domain or node.op_type not in kinds:
        return None
    first, second = node.inputs[:2]
    if node.op_type == "MatMul" and first is not None and first.const_value is not None:
        first, second = second, first
    if first is None or second is None or second.const_value is None or first.const_value is not None:
        return None
    if node.op_type == "Gemm" and node.attributes.get_int("transA"):
        return None  # the samples are columns
    if node.op_type == "MatMul" and (rank(second) != 2 or rank(first) < (2 if second is node.inputs[1] else 3)):
        return None
    if node.op_type in SCALES and rank(second) != 1:
        return None
    return Layer(_name(node, second), node, first, node.outputs[0], second.const_value.numpy())


def _name(node: ir.Node, weight: ir.Value) -> str:
    return (weight.name or node.name or "").removesuffix("_transposed").removesuffix(".weight")
