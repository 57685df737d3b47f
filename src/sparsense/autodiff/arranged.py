"""Numbers of a weight's shape, arranged as the graph arranges that weight's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from sparsense.autodiff.layers import Layer, weighted_layers
from sparsense.autodiff.weight_gradient import weight_gradient
from sparsense.graph.forward import ForwardGraph
from sparsense.graph.run import Session, with_outputs


def arranged(network: ForwardGraph, layers: Sequence[Layer], arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Matrices `[R, S]` with the rows and columns of `weight_gradient`.

    Args:
        network: The graph; it is copied.
        layers: Of this graph.
        arrays: One for each layer, in the layout of the node's weight.
    """
    network = network.copy()
    own = {layer.name: layer for layer in weighted_layers(network, layers=[layer.name for layer in layers])}
    found = []
    for layer, array in zip(layers, arrays, strict=True):
        asked = replace(own[layer.name], weight=array)
        found.append(network.op.Identity(weight_gradient(network.op, asked, asked.output)[1]))
    model = with_outputs(network.model, found)
    model.graph.inputs.clear()
    return Session(model)({})
