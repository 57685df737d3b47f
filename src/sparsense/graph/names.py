"""Names for nodes that have none: messages and layers are called by them."""

from __future__ import annotations

import onnx_ir as ir


def name_nodes(graph: ir.Graph) -> None:
    """Call every node without a name like its first output."""
    taken = {node.name for node in graph}
    for node in graph:
        if not node.name and node.outputs and node.outputs[0].name not in taken:
            node.name = node.outputs[0].name
            taken.add(node.name)
