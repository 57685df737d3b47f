"""The walk: from one value back to others, through the rules of the operators in between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir

from sparsense.autodiff import rules as _rules  # noqa: F401  importing the rules registers them
from sparsense.autodiff.rule import RULES, Call, unsupported
from sparsense.autodiff.shapes import ones_like, unbroadcast
from sparsense.errors import GraphError
from sparsense.graph.build import Builder


def differentiate(
    op: Builder, *, of: ir.Value, wrt: Sequence[ir.Value], seed: ir.Value | None = None
) -> Mapping[ir.Value, ir.Value]:
    """Add to the graph the nodes that compute d sum(of * seed) / d value for each value.

    In inference mode the samples of a batch do not mix, so row i of every result belongs to sample i alone: the
    gradient of a sum over the batch is the stack of the per-sample gradients. The nodes added have rules
    themselves, so that a gradient can be differentiated again.

    Args:
        op: The builder of the graph that holds all values.
        of: What is differentiated, any shape.
        wrt: Values computed before `of`, or inputs. A Concat that `of` does not need stands for its operands: their
            gradients side by side.
        seed: Weights of the sum, shaped like `of`; default: ones.

    Returns:
        Value -> gradient, shaped like the value.

    Raises:
        UnsupportedOperatorError: An operator on the way has no rule; names the node and what can be done.
        GraphError: `of` does not depend on a value, or only through steps (Sign, ArgMax, whole numbers); names them.
    """
    needed = ancestors(of)
    parts = {value: _operands(value, needed) for value in wrt}
    starts = [part for value in wrt for part in parts[value]]
    deltas = _walk(op, of, starts, seed)
    found = {}
    for value in wrt:
        gradients = [deltas[part] for part in parts[value]]
        found[value] = gradients[0] if len(gradients) == 1 else _joined(op, value, gradients)
    return found


def _operands(value: ir.Value, needed: set[ir.Node]) -> list[ir.Value]:
    """The value itself, or what a Concat that is not needed puts together."""
    node = value.producer()
    if node is None or node in needed or node.domain or node.op_type != "Concat":
        return [value]
    return [part for part in node.inputs if part is not None]


def _joined(op: Builder, value: ir.Value, gradients: Sequence[ir.Value]) -> ir.Value:
    node = value.producer()
    joined = op.Concat(*gradients, axis=0 if node is None else node.attributes.get_int("axis", 0))
    joined.shape = value.shape
    return joined


def _walk(op: Builder, of: ir.Value, wrt: Sequence[ir.Value], seed: ir.Value | None) -> Mapping[ir.Value, ir.Value]:
    """The gradients that the rules send back to every value on the way."""
    path = nodes_between(wrt, of)
    check_rules(path, wrt)
    on_path = {*wrt, *(output for node in path for output in node.outputs)}
    deltas: dict[ir.Value, ir.Value] = {of: ones_like(op, of) if seed is None else seed}
    for node in reversed(path):
        call = Call.of(node, op.opset, [deltas.get(output) for output in node.outputs])
        if any(delta is not None for delta in call.deltas):
            _push(op, call, on_path, deltas)
    if missing := [value for value in wrt if value not in deltas]:
        raise _independent(of, missing)
    return deltas


def _independent(of: ir.Value, missing: Sequence[ir.Value]) -> GraphError:
    names = ", ".join(repr(value.name) for value in missing)
    ends = ", ".join(f"{node.name!r} ({node.op_type})" for node in dead_ends(missing, of))
    why = f": gradients end at {ends}, whose output moves in steps or not at all" if ends else ""
    return GraphError(
        f"differentiating {of.name!r}: it does not depend on {names}{why}; "
        "restrict the head to later layers with layers=..., or use a head without gradients"
    )


def _push(op: Builder, call: Call, on_path: set[ir.Value], deltas: dict[ir.Value, ir.Value]) -> None:
    """Send the gradients that arrive at a node's outputs on to those of its inputs that need them."""
    rule = RULES[call.node.op_type]
    if any(delta is not None for delta in call.deltas[rule.outputs :]):
        raise call.refuse("is differentiated through a second output, for which it has no rule")
    for index, value in enumerate(call.x):
        product = rule.product(index) if value in on_path and is_float(value) else None
        delta = None if product is None else product(op, call.deltas[0], call)
        if delta is None:
            continue
        delta = unbroadcast(op, delta, value)
        if value in deltas:
            delta = add(op, deltas[value], delta)
        delta.shape = value.shape
        deltas[value] = delta


COUNTS = ("Shape", "Size")  # of an array, which its numbers do not change
LINEAR = ("Conv", "DepthToSpace", "Expand", "Pad", "Reshape", "Slice", "Transpose")


def add(op: Builder, one: ir.Value, other: ir.Value) -> ir.Value:
    """The sum of two gradients; where both come out of the same linear step, they are added before it."""
    a, b = one.producer(), other.producer()
    if a is None or b is None or not _same_step(a, b):
        return op.Add(one, other)
    total = add(op, a.inputs[0], b.inputs[0])  # type: ignore[arg-type]  # linear steps have a first input
    return op.call(a.op_type, total, *a.inputs[1:], **{name: x.value for name, x in a.attributes.items()})[0]


def _same_step(a: ir.Node, b: ir.Node) -> bool:
    one, other = a.inputs[0], b.inputs[0]
    return (
        a.op_type == b.op_type
        and a.op_type in LINEAR
        and not (a.op_type == "Conv" and len(a.inputs) > 2)
        and one is not None
        and other is not None
        and one.shape == other.shape
        and list(a.inputs[1:]) == list(b.inputs[1:])
        and {name: x.value for name, x in a.attributes.items()} == {name: x.value for name, x in b.attributes.items()}
    )


def nodes_between(start: Iterable[ir.Value], end: ir.Value) -> list[ir.Node]:
    """The nodes through which a gradient of `end` reaches `start`, in the order of the graph."""
    producer = end.producer()
    if producer is None or producer.graph is None:
        return []
    behind, reached, path = ancestors(end, carrying=True), set(start), []
    for node in producer.graph:
        if node in behind and any(value in reached for value in reads(node)):
            path.append(node)
            reached.update(output for output in node.outputs if is_float(output))
    return path


def ancestors(value: ir.Value, *, carrying: bool = False) -> set[ir.Node]:
    """All nodes that a value was computed from; with `carrying`, those that carry a gradient of it."""
    found: set[ir.Node] = set()
    pending = [value]
    while pending:
        node = pending.pop().producer()
        if node is None or node in found or (carrying and _is_flat(node)):
            continue
        found.add(node)
        pending.extend(x for x in reads(node) if is_float(x) or not carrying)
    return found


def reads(node: ir.Node) -> list[ir.Value]:
    """What a node is computed from: its inputs, and what the branches of an If or the body of a Loop take from outside.

    Values that are made inside a branch are among them and do no harm: nothing outside can lead to them.
    """
    given = [value for value in node.inputs if value is not None]
    bodies = [
        attribute.as_graph() for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH
    ]
    return given + [value for body in bodies for value in _captured(body)]


def _captured(body: ir.Graph) -> list[ir.Value]:
    return [*(value for inner in body for value in reads(inner)), *body.outputs]


def dead_ends(starts: Iterable[ir.Value], end: ir.Value) -> list[ir.Node]:
    """The nodes between two values at which gradients stop without a fault: steps, and results that are no floats."""
    producer = end.producer()
    if producer is None or producer.graph is None:
        return []
    needed, reached, found = ancestors(end), set(starts), []
    for node in producer.graph:
        if node not in needed or not any(value in reached for value in reads(node)) or node.op_type in COUNTS:
            continue
        used = [output for output in node.outputs if output is end or any(use.node in needed for use in output.uses())]
        passed = [] if _is_flat(node) else [output for output in used if is_float(output)]
        reached.update(passed)
        if not passed:
            found.append(node)
    return found


def _is_flat(node: ir.Node) -> bool:
    return not node.domain and node.op_type in RULES and RULES[node.op_type].flat(node)


def check_rules(path: Sequence[ir.Node], wrt: Iterable[ir.Value]) -> None:
    """Refuse, by name, a node that the gradient would have to cross without a rule."""
    reached = {*wrt, *(output for node in path for output in node.outputs)}
    for node in path:
        if node.domain or node.op_type not in RULES:
            raise unsupported(node, "has no differentiation rule")
        for index, value in enumerate(node.inputs):
            if value in reached and is_float(value) and RULES[node.op_type].product(index) is None:
                raise unsupported(node, f"has no differentiation rule for its input {index}")


def is_float(value: ir.Value | None) -> bool:
    """Whether gradients can flow through a value; integers and booleans carry none. An unknown type might."""
    return value is not None and (value.dtype is None or value.dtype.is_floating_point())
