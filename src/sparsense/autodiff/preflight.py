"""Which nodes of a network a gradient cannot cross, before anything is attached."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from sparsense.autodiff.differentiate import ancestors, dead_ends, nodes_between
from sparsense.autodiff.layers import as_layer
from sparsense.autodiff.rule import RULES
from sparsense.graph.forward import ForwardGraph

FLOAT_NETWORK = "attach to the float network and quantise the detector afterwards"
UNROLLED = "export with a fixed number of steps, so that it is unrolled"
QUANTISED = (
    "ConvInteger",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
)
SUBSTITUTES = {
    **dict.fromkeys(QUANTISED, FLOAT_NETWORK),
    "GRU": "unroll the recurrence before the export",
    "GridSample": "use Resize, or restrict the head to the layers behind it",
    "If": "export one of its branches: its condition is computed at run time",
    "LSTM": "unroll the recurrence before the export",
    "Loop": UNROLLED,
    "RNN": "unroll the recurrence before the export",
    "Scan": UNROLLED,
}
OTHERWISE = "restrict the head to later layers with layers=..., or use a head without gradients"
ELSEWHERE = "attach to the model as it was before it was optimised for one runtime: with the operators of ONNX itself"
STEPS = "its output moves in steps: take an output before it, or " + OTHERWISE


@dataclass(frozen=True)
class Obstacle:
    """A node between the first weighted layer and the output that a gradient cannot cross.

    Attributes:
        node: Its name.
        op_type: Its operator, with the domain if it is not the default one.
        advice: What can be done.
    """

    node: str
    op_type: str
    advice: str

    def __str__(self) -> str:
        return f"node {self.node!r} ({self.op_type}): {self.advice}"


def preflight(network: ForwardGraph) -> list[Obstacle]:
    """The nodes that a gradient from the output to the first weighted layer would meet and could not cross.

    They have no rule, compute with quantised numbers, or are steps behind which a layer has no gradient at all.
    """
    needed = ancestors(network.output)
    nodes = [node for node in network.model.graph if node in needed]
    layers = [layer.output for node in nodes if (layer := as_layer(node)) is not None]
    cut = [value for value in layers if not _is_reached(value, network.output)]
    steps = set(dead_ends(cut, network.output))
    path = set(nodes_between(layers, network.output))
    return [obstacle for node in nodes if (obstacle := _obstacle(node, node in path, node in steps)) is not None]


def _is_reached(value: ir.Value, output: ir.Value) -> bool:
    return value is output or output in {made for node in nodes_between([value], output) for made in node.outputs}


def _obstacle(node: ir.Node, on_path: bool, is_step: bool) -> Obstacle | None:
    name, kind = node.name or "", f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    if node.op_type in QUANTISED or (on_path and not node.domain and node.op_type not in RULES):
        return Obstacle(name, kind, SUBSTITUTES.get(node.op_type, OTHERWISE))
    if on_path and node.domain:
        return Obstacle(name, kind, ELSEWHERE)
    return Obstacle(name, kind, STEPS) if is_step else None
