"""The walk: from one value back to others, through the rules of the operators in between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from sparsense.autodiff import rules as _rules  # noqa: F401  importing the rules registers them
from sparsense.autodiff.rule import RULES, STOPS, Call
from sparsense.autodiff.shapes import unbroadcast
from sparsense.errors import UnsupportedOperatorError
from sparsense.graph.build import Builder


def differentiate(
    op: Builder, *, of: ir.Value, wrt: Sequence[ir.Value], seed: ir.Value | None = None
) -> Mapping[ir.Value, ir.Value]:
    """Add to the graph the nodes that compute d sum(of * seed) / d value for each value.

    In inference mode the samples of a batch do not mix, so row i of every result belongs to sample i alone: the
    gradient of a sum over the batch is the stack of the per-sample gradients.

    Args:
        op: The builder of the graph that holds all values.
        of: What is differentiated, any shape.
        wrt: Values computed before `of`, or inputs.
        seed: Weights of the sum, shaped like `of`; default: ones.

    Returns:
        Value -> gradient, shaped like the value. A value that `of` does not depend on is an error of the caller.

    Raises:
        UnsupportedOperatorError: An operator on the way has no rule; names the node and what can be done.
    """
    path = nodes_between(wrt, of)
    check_rules(path, wrt)
    on_path = {*wrt, *(output for node in path for output in node.outputs)}
    deltas: dict[ir.Value, ir.Value] = {of: ones_like(op, of) if seed is None else seed}
    for node in reversed(path):
        arriving = [deltas.get(output) for output in node.outputs]
        if any(delta is not None for delta in arriving):
            _push(op, node, arriving, on_path, deltas)
    missing = [value.name for value in wrt if value not in deltas]
    if missing:
        raise ValueError(
            f"differentiating {of.name!r}: it does not depend on {', '.join(map(repr, missing))}"
        )
    return {value: deltas[value] for value in wrt}


def _push(
    op: Builder,
    node: ir.Node,
    arriving: Sequence[ir.Value | None],
    on_path: set[ir.Value],
    deltas: dict[ir.Value, ir.Value],
) -> None:
    """Send the gradients that arrive at a node's outputs on to those of its inputs that need them."""
    call = Call(node.inputs, node.outputs, arriving, node)
    for index, value in enumerate(node.inputs):
        product = None if value not in on_path else RULES[node.op_type](index)
        if product is None or value is None:
            continue
        delta = product(op, arriving[0], call)
        if delta is None:
            continue
        delta = unbroadcast(op, delta, value)
        if value in deltas:
            delta = op.Add(deltas[value], delta)
        delta.shape = value.shape
        deltas[value] = delta


def ones_like(op: Builder, value: ir.Value) -> ir.Value:
    """Ones shaped like a value."""
    return op.Add(op.Mul(op.Sign(value), 0.0), 1.0)


def nodes_between(start: Iterable[ir.Value], end: ir.Value) -> list[ir.Node]:
    """The nodes through which a gradient of `end` reaches `start`, in the order of the graph."""
    ancestors = _ancestors(end)
    reached, path = set(start), []
    producer = end.producer()
    if producer is None or producer.graph is None:
        return []
    for node in producer.graph:
        if node in ancestors and node.op_type not in STOPS and any(value in reached for value in node.inputs):
            path.append(node)
            reached.update(node.outputs)
    return path


def _ancestors(value: ir.Value) -> set[ir.Node]:
    found: set[ir.Node] = set()
    pending = [value]
    while pending:
        node = pending.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            pending.extend(operand for operand in node.inputs if operand is not None)
    return found


def check_rules(path: Sequence[ir.Node], wrt: Iterable[ir.Value]) -> None:
    """Refuse, by name, a node that the gradient would have to cross without a rule."""
    reached = {*wrt, *(output for node in path for output in node.outputs)}
    for node in path:
        if node.domain or node.op_type not in RULES:
            raise _unsupported(node, "has no differentiation rule")
        for index, value in enumerate(node.inputs):
            if value in reached and RULES[node.op_type](index) is None and is_float(value):
                raise _unsupported(node, f"has no differentiation rule for its input {index}")


def is_float(value: ir.Value | None) -> bool:
    """Whether gradients can flow through a value; integers and booleans carry none."""
    return value is not None and value.dtype is not None and value.dtype.is_floating_point()


def _unsupported(node: ir.Node, problem: str) -> UnsupportedOperatorError:
    kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return UnsupportedOperatorError(
        f"differentiating the graph: node {node.name!r} ({kind}) {problem}. Operators with a rule: {', '.join(sorted(RULES))}. "
        "Restrict the head to later layers with layers=..., export the network with other operators, or use a head without gradients",
        node=node.name or "",
        op_type=node.op_type,
    )
