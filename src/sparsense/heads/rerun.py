"""The network once more in the same graph, with another value in the place of one of its own."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from sparsense.autodiff.differentiate import ancestors
from sparsense.errors import GraphError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph


def rerun(network: ForwardGraph, value: ir.Value, replacement: ir.Value) -> ir.Value:
    """What the network's output would be if `value` were `replacement`.

    Only the nodes that depend on `value` are copied; constants are shared.
    """
    renewed: dict[ir.Value | None, ir.Value] = {value: replacement}
    needed = ancestors(network.output)
    for node in [node for node in network.model.graph if node in needed]:
        if any(operand in renewed for operand in node.inputs):
            renewed.update(zip(node.outputs, _copy(network.op, node, renewed), strict=True))
    return renewed[network.output]


def _copy(op: Builder, node: ir.Node, renewed: dict[ir.Value | None, ir.Value]) -> tuple[ir.Value, ...]:
    branches = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if node.domain or any(attribute.type in branches for attribute in node.attributes.values()):
        raise GraphError(
            f"running the network twice in one graph: node {node.name!r} ({node.op_type}) cannot be copied, because it "
            "has a branch or belongs to another domain; choose a head that does not perturb the input"
        )
    attributes: dict[str, Any] = {name: attribute.value for name, attribute in node.attributes.items()}
    operands = [renewed.get(operand, operand) for operand in node.inputs]
    copies = op.call(node.op_type, *operands, outputs=len(node.outputs), **attributes)
    for copy, original in zip(copies, node.outputs, strict=True):
        copy.shape = original.shape
    return copies
