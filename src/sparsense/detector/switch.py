"""What is computed only when asked for: nodes behind an input that is false by default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.differentiate import ancestors

SWITCH = "explain"


def behind_switch(graph: ir.Graph, values: Mapping[str, ir.Value], needed: Iterable[ir.Value]) -> dict[str, ir.Value]:
    """Move the nodes that only `values` need into the branch of an If, whose condition is the input `explain`.

    ONNX Runtime computes all outputs of a graph, asked for or not; of an If it runs one branch.

    Args:
        graph: The detector's.
        values: Output name -> value `[N, ...]`, made by a node.
        needed: What is computed always.

    Returns:
        Output name -> value: the same, or with no rows where the switch is off.
    """
    always = set().union(*map(ancestors, needed))
    wanted = set().union(*map(ancestors, values.values()))
    asked_for = [node for node in graph if node not in always]
    inner = [node for node in asked_for if node in wanted]  # the others are of no use to anybody
    graph.remove(asked_for)
    for node in inner:  # so that nodes added to the graph later cannot take their names
        node.name = f"{SWITCH}/{node.name}"
        for output in node.outputs:
            output.name = f"{SWITCH}/{output.name}"
    branches = {
        "then_branch": ir.Graph([], list(values.values()), nodes=inner, name="explained"),
        "else_branch": _nothing(values),
    }
    attributes = [ir.AttrGraph(name, branch) for name, branch in branches.items()]
    node = ir.node("If", [_switch(graph)], num_outputs=len(values), name=SWITCH)
    for attribute in attributes:
        node.attributes.add(attribute)
    graph.append(node)
    for output, (name, value) in zip(node.outputs, values.items(), strict=True):
        output.name, output.type = name, value.type
        output.shape = ir.Shape(["E", *list(value.shape or ["E"])[1:]])
    return dict(zip(values, node.outputs, strict=True))


def _switch(graph: ir.Graph) -> ir.Value:
    """False by default; an initializer that is also an input, as the threshold is."""
    value = ir.Value(name=SWITCH, shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
    value.const_value = ir.tensor(np.asarray(False), name=SWITCH)
    graph.inputs.append(value)
    graph.register_initializer(value)
    return value


def _nothing(values: Mapping[str, ir.Value]) -> ir.Graph:
    """The branch that gives no rows."""
    nodes = []
    for name, value in values.items():
        sizes = [size if isinstance(size, int) else 1 for size in list(value.shape or [1])[1:]]
        empty = ir.tensor(np.zeros([0, *sizes], np.float32), name=f"{name}.empty")
        node = ir.node("Constant", [], {"value": empty}, name=f"{name}.nothing")
        node.outputs[0].name = f"{name}.nothing"
        node.outputs[0].type, node.outputs[0].shape = value.type, ir.Shape([0, *sizes])
        nodes.append(node)
    return ir.Graph([], [node.outputs[0] for node in nodes], nodes=nodes, name="not_explained")
