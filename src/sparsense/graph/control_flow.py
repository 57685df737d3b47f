"""Loops whose number of steps is a constant, written out step by step, so that gradients can cross them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

MAXIMUM_STEPS = 256
MAXIMUM_NODES = 20_000  # that one loop may become


def unroll(graph: ir.Graph) -> bool:
    """Replace every Loop and Scan of constant length by its steps, and every If of constant condition by its branch.

    Loops that are longer than `MAXIMUM_STEPS`, or end when a computed condition says so, stay as they are.

    Returns:
        Whether anything was replaced: bodies may hold further loops, and constants to fold.
    """
    changed = [node for node in graph if not node.domain and node.op_type in _WRITTEN and _WRITTEN[node.op_type](node)]
    for node in changed:
        graph.remove(node, safe=True)
    return bool(changed)


# --- the parts of a loop ----------------------------------------------------------------------------------------------


@dataclass
class _Steps:
    """New nodes and constants, collected until all of them are put before the loop."""

    node: ir.Node
    body: ir.Graph
    made: list[ir.Node]

    @property
    def graph(self) -> ir.Graph:
        graph = self.node.graph
        if not isinstance(graph, ir.Graph):
            raise ValueError(f"node {self.node.name!r} lies outside of a graph")
        return graph

    @property
    def name(self) -> str:
        """Unique also for loops that have none."""
        return self.node.name or f"{self.node.op_type}.{self.node.outputs[0].name}"

    def constant(self, array: np.ndarray, name: str) -> ir.Value:
        value = ir.Value(name=f"{self.name}.{name}", const_value=ir.tensor(array))
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
        self.graph.initializers.setdefault(str(value.name), value)
        return self.graph.initializers[str(value.name)]

    def add(self, op_type: str, *inputs: ir.Value, name: str, **attributes: int) -> ir.Value:
        node = ir.node(op_type, list(inputs), attributes or None, name=f"{self.name}.{name}")
        node.outputs[0].name = node.name
        self.made.append(node)
        return node.outputs[0]

    def step(self, label: int | str, given: Sequence[ir.Value]) -> list[ir.Value]:
        """One copy of the body on these inputs; returns its outputs."""
        copy = self.body.clone(allow_outer_scope_values=True)
        for value, actual in zip(copy.inputs, given, strict=True):
            value.replace_all_uses_with(actual, replace_graph_outputs=True)
        prefix = f"{self.name}.{label}."
        for value in list(copy.initializers.values()):
            self._adopt(value, prefix)
        nodes, outputs = list(copy), list(copy.outputs)
        copy.outputs.clear()
        copy.remove(nodes)
        for node in nodes:
            node.name = prefix + (node.name or str(node.outputs[0].name))
            for output in node.outputs:
                output.name = prefix + (output.name or "")
        self.made += nodes
        return outputs

    def _adopt(self, value: ir.Value, prefix: str) -> None:
        """A constant of the body becomes one of the graph, a copy for each step; equal ones are merged later."""
        constant = value.const_value
        if constant is not None:
            value.replace_all_uses_with(
                self.constant(constant.numpy(), f"{prefix}{value.name}".removeprefix(f"{self.name}.")),
                replace_graph_outputs=True,
            )

    def collect(self, parts: Sequence[ir.Value], index: int, axis: int = 0) -> ir.Value:
        """What every step gives once, along a new axis."""
        where = self.constant(np.asarray([axis]), f"axis_{axis}")
        rows = [self.add("Unsqueeze", part, where, name=f"row_{index}_{i}") for i, part in enumerate(parts)]
        return self.add("Concat", *rows, name=f"rows_{index}", axis=axis)

    def finish(self, outputs: Sequence[ir.Value]) -> bool:
        self.graph.insert_before(self.node, self.made)
        for old, new in zip(self.node.outputs, outputs, strict=True):
            if old in self.graph.outputs:  # the graph's own outputs keep their names
                new = self._named(new, old)
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        return True

    def _named(self, value: ir.Value, old: ir.Value) -> ir.Value:
        name, old.name = old.name, f"{old.name}.replaced"
        node = ir.node("Identity", [value], name=f"{self.name}.{name}")
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, old.type, old.shape
        self.graph.insert_before(self.node, node)
        return node.outputs[0]


# --- the three kinds --------------------------------------------------------------------------------------------------


def _loop(node: ir.Node) -> bool:
    count, condition, *states = node.inputs
    body = node.attributes["body"].as_graph()
    steps = _number(count)
    if steps is None or not _fits(steps, body) or not _always(condition) or not _goes_on(body):
        return False
    work, carried = _Steps(node, body, []), [state for state in states if state is not None]
    rows: list[list[ir.Value]] = []
    for step in range(steps):
        begin = [work.constant(np.asarray(step), f"step_{step}"), work.constant(np.asarray(True), "true")]
        _, *outputs = work.step(step, [*begin, *carried])
        carried, row = outputs[: len(carried)], outputs[len(carried) :]
        rows.append(row)
    collected = [work.collect(column, i) for i, column in enumerate(zip(*rows, strict=True))]
    return work.finish([*carried, *collected])


def _scan(node: ir.Node) -> bool:
    body, width = node.attributes["body"].as_graph(), node.attributes.get_int("num_scan_inputs") or 0
    given = [value for value in node.inputs if value is not None]
    carried, sequences = given[: len(given) - width], given[len(given) - width :]
    axes, backwards = (_integers(node, f"scan_input_{name}", width) for name in ("axes", "directions"))
    out_axes, out_backwards = (
        _integers(node, f"scan_output_{name}", len(node.outputs) - len(carried)) for name in ("axes", "directions")
    )
    lengths = {_size(value, axis) for value, axis in zip(sequences, axes, strict=True)}
    steps = lengths.pop() if len(lengths) == 1 else None
    if steps is None or not _fits(steps, body):
        return False
    work, rows = _Steps(node, body, []), []
    for step in range(steps):
        slices = [
            work.add("Gather", value, work.constant(np.asarray(at), f"at_{at}"), name=f"in_{i}_{step}", axis=axis)
            for i, (value, axis, back) in enumerate(zip(sequences, axes, backwards, strict=True))
            for at in [steps - 1 - step if back else step]
        ]
        outputs = work.step(step, [*carried, *slices])
        carried, row = outputs[: len(carried)], outputs[len(carried) :]
        rows.append(row)
    columns = [
        column[::-1] if back else column for column, back in zip(zip(*rows, strict=True), out_backwards, strict=True)
    ]
    collected = [work.collect(column, i, out_axes[i]) for i, column in enumerate(columns)]
    return work.finish([*carried, *collected])


def _branch(node: ir.Node) -> bool:
    condition = node.inputs[0]
    if condition is None or condition.const_value is None:
        return False
    taken = "then_branch" if condition.const_value.numpy().reshape(-1)[0] else "else_branch"
    work = _Steps(node, node.attributes[taken].as_graph(), [])
    return work.finish(work.step(taken, []))


_WRITTEN = {"If": _branch, "Loop": _loop, "Scan": _scan}


# --- what is known before anything runs -------------------------------------------------------------------------------


def _number(value: ir.Value | None) -> int | None:
    return None if value is None or value.const_value is None else int(value.const_value.numpy().reshape(-1)[0])


def _fits(steps: int, body: ir.Graph) -> bool:
    """At least one step: what none would collect has no known shape."""
    return 0 < steps <= MAXIMUM_STEPS and steps * sum(1 for _ in body.all_nodes()) <= MAXIMUM_NODES


def _always(condition: ir.Value | None) -> bool:
    return condition is None or (condition.const_value is not None and bool(condition.const_value.numpy().all()))


def _goes_on(body: ir.Graph) -> bool:
    """Whether the body's condition is the one it was given, or a constant True."""
    value: ir.Value | None = body.outputs[0]
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Constant":
            return bool(node.attributes["value"].as_tensor().numpy().all())
        if node.op_type not in ("Identity", "Cast"):
            return False
        value = node.inputs[0]
    return value is not None and (value is body.inputs[1] or (value.const_value is not None and _always(value)))


def _integers(node: ir.Node, name: str, count: int) -> list[int]:
    attribute = node.attributes.get(name)
    return [0] * count if attribute is None else list(attribute.as_ints())


def _size(value: ir.Value, axis: int) -> int | None:
    size = None if value.shape is None else value.shape[axis]
    return size if isinstance(size, int) else None
