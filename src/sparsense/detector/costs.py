"""What a gradient head would cost on a file, layer by layer, and what it could not cross."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparsense.autodiff.cost import Cost, cost
from sparsense.autodiff.layers import weighted_layers
from sparsense.autodiff.preflight import Obstacle, preflight
from sparsense.errors import GraphError
from sparsense.graph.forward import ForwardGraph, bare_graph
from sparsense.graph.load import load_graph
from sparsense.graph.outputs import choose_output
from sparsense.reading import reading
from sparsense.runtime import CARD_KEY


@dataclass(frozen=True)
class NetworkCost:
    """A network's layers and obstacles.

    Attributes:
        layers: Multiply-adds of every layer with a constant weight, for one sample.
        obstacles: Nodes that a gradient to the first layer cannot cross.
        problem: Why there are no layers, if there are none.
    """

    layers: list[Cost]
    obstacles: list[Obstacle]
    problem: str | None = None


def network_cost(path: str | Path, *, output_name: str | None = None) -> NetworkCost:
    """Look at a plain network, or at the network inside a detector.

    Args:
        path: An ONNX file.
        output_name: The network's answer; default: the first output, of a detector the network's own.

    Raises:
        GraphError: Not a network that can be read.
    """
    model = load_graph(path)
    if output_name is None and CARD_KEY in model.metadata_props:
        output_name = "output"
    with reading(f"inspecting {path}"):
        return _cost_of(bare_graph(choose_output(model, output_name, what=str(path))))


def _cost_of(network: ForwardGraph) -> NetworkCost:
    obstacles = preflight(network)
    try:
        return NetworkCost(cost(network, weighted_layers(network)), obstacles)
    except GraphError as error:
        return NetworkCost([], obstacles, str(error))
