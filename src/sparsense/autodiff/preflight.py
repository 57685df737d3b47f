"""Which nodes of a network a gradient cannot cross, before anything is attached."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from sparsense.autodiff.differentiate import ancestors, is_float
from sparsense.autodiff.layers import as_layer
from sparsense.autodiff.rule import RULES
from sparsense.graph.forward import ForwardGraph

SUBSTITUTES = {
    "DequantizeLinear": "attach to the float network and quantise the detector afterwards",
    "GRU": "unroll the recurrence before the export",
    "GridSample": "use Resize, or restrict the head to the layers behind it",
    "LSTM": "unroll the recurrence before the export",
    "Loop": "export with a fixed number of steps, so that the loop is unrolled",
    "QuantizeLinear": "attach to the float network and quantise the detector afterwards",
    "RNN": "unroll the recurrence before the export",
    "Scan": "export with a fixed number of steps, so that the loop is unrolled",
}
OTHERWISE = "restrict the head to later layers with layers=..., or use a head without gradients"


@dataclass(frozen=True)
class Obstacle:
    """A node without a differentiation rule between the first weighted layer and the output.

    Attributes:
        node: Its name.
        op_type: Its operator, with the domain if it is not the default one.
        advice: What can be done.
    """

    node: str
    op_type: str
    advice: str


def preflight(network: ForwardGraph) -> list[Obstacle]:
    """The nodes that a gradient from the output to the first weighted layer would meet without a rule."""
    behind, reached, found = ancestors(network.output, carrying=True), set[ir.Value](), []
    for node in network.model.graph:
        if node not in behind:
            continue
        if any(value in reached for value in node.inputs) and (node.domain or node.op_type not in RULES):
            kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            found.append(Obstacle(node.name or "", kind, SUBSTITUTES.get(node.op_type, OTHERWISE)))
        if as_layer(node) is not None or any(value in reached for value in node.inputs):
            reached.update(output for output in node.outputs if is_float(output))
    return found
