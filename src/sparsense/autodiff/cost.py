"""What sensitivities cost, layer by layer, counted in multiply-adds per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from sparsense.autodiff.layers import PRODUCTS, Layer
from sparsense.autodiff.shapes import dims
from sparsense.graph.forward import ForwardGraph


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one layer for one sample; None where a size is free.

    Attributes:
        layer: Its name.
        op_type: Its operator.
        weights: Number of weights.
        forward: The layer itself.
        gate: What its gate sensitivities add: the gradient through the layer, and one product per output.
        weight: What its weight sensitivities add: the gradient through the layer, and that of the weight.
    """

    layer: str
    op_type: str
    weights: int
    forward: int | None
    gate: int | None
    weight: int | None


def cost(network: ForwardGraph, layers: Sequence[Layer]) -> list[Cost]:
    """Count the multiply-adds of every layer, in the order in which they run.

    The first layer that is chosen needs no gradient of its input, and no layer before it any gradient at all. Time is
    another matter: small products and copies count for more than their multiply-adds.

    Args:
        network: The graph; its input tells how often a merged batch axis counts.
        layers: As `weighted_layers` gives them.
    """
    return [_of(network, layer, first=index == 0) for index, layer in enumerate(layers)]


def _of(network: ForwardGraph, layer: Layer, *, first: bool) -> Cost:
    outputs = _outputs(network, layer)
    weights = int(layer.weight.size)
    if outputs is None:
        return Cost(layer.name, layer.node.op_type, weights, None, None, None)
    forward = outputs * _products_per_output(layer)
    through = 0 if first else forward
    gradient = forward if layer.node.op_type in PRODUCTS else outputs
    return Cost(layer.name, layer.node.op_type, weights, forward, through + outputs, through + gradient + weights)


def _outputs(network: ForwardGraph, layer: Layer) -> int | None:
    """Elements of the output per sample; None when a size is free or samples and windows are merged."""
    batch, *sizes = dims(layer.output)
    if network.input.shape is None or (batch != network.input.shape[0] and layer.uses == 1):
        return None
    read = dims(layer.activation)[1:]
    return layer.uses * prod(sizes) if all(isinstance(size, int) for size in (*sizes, *read)) else None


def _products_per_output(layer: Layer) -> int:
    """Weights that meet in one output element: of a ConvTranspose, on average."""
    if layer.node.op_type not in PRODUCTS:
        return 1
    outputs = dims(layer.output)[layer.channel_axis]
    if layer.node.op_type == "ConvTranspose":
        inputs, positions = (prod(dims(value)[2:]) for value in (layer.activation, layer.output))
        outputs = max(layer.weight.shape[1] * positions // inputs, 1)
    return max(int(layer.weight.size) // int(outputs), 1)
