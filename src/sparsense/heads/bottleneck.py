"""Where an autoencoder is narrowest: its code, and the layers that decode it."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from sparsense.autodiff import Layer, weighted_layers
from sparsense.autodiff.differentiate import ancestors, nodes_between
from sparsense.autodiff.shapes import all_known, dims
from sparsense.errors import GraphError
from sparsense.graph.forward import ForwardGraph


def find_code(network: ForwardGraph, name: str | None = None) -> ir.Value:
    """The value between input and output with the fewest elements per sample, the last of equal ones; or a named one.

    A code lies between weighted layers: what the last one gives is none, even where a code is wider than the samples.
    The name of a part, such as `encoder`, stands for the last value that it gives.

    Raises:
        GraphError: No such value, or none whose size is known.
    """
    path = nodes_between([network.target], network.output)
    found = [value for node in path for value in node.outputs if value is not network.output]
    if name is not None:
        chosen = [value for value in found if value.name == name or _is_part(value.producer(), name)]
        if not chosen:
            names = ", ".join(repr(value.name) for value in found)
            raise GraphError(f"looking for the code {name!r} of the autoencoder: found only {names}")
        return chosen[-1]
    inside = _between_layers(network, found) or found
    sized = [value for value in inside if value.shape is not None and all_known(list(value.shape)[1:])]
    if not sized:
        raise GraphError("looking for the code of the autoencoder: no size is known; name it with latent=...")
    alike = [value for value in sized if list(value.shape or ())[:1] == list(network.target.shape or ())[:1]]
    return min(reversed(alike or sized), key=lambda value: prod(dims(value)[1:]))


def _is_part(node: ir.Node | None, name: str) -> bool:
    """Whether a node belongs to a part of the network: `encoder.2/Gemm` does to `encoder` and to `encoder.2`."""
    scope = (node.name or "").rpartition("/")[0] if node is not None else ""
    return scope == name or scope.startswith(f"{name}.")


def _between_layers(network: ForwardGraph, values: list[ir.Value]) -> list[ir.Value]:
    """Those of the values that have a weighted layer before them, and one behind them."""
    weighted = {layer.node for layer in weighted_layers(network)}
    read = set[ir.Node]().union(*(ancestors(value) for node in weighted for value in node.inputs if value is not None))
    return [value for value in values if value.producer() in read and weighted & ancestors(value)]


def decoder_layers(network: ForwardGraph, code: ir.Value) -> list[Layer]:
    """The weighted layers behind the code."""
    before = ancestors(code)
    found = [layer for layer in weighted_layers(network) if layer.node not in before]
    if not found:
        raise GraphError(f"looking for the decoder: no weighted layer lies behind the code {code.name!r}")
    return found
