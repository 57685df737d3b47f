"""The fully connected layer that a network's output comes from, what goes into it, and what is added behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import onnx_ir as ir

from sparsense.errors import GraphError
from sparsense.graph.build import Builder

RESHAPING = ("Identity", "Squeeze", "Reshape", "Flatten", "QuantizeLinear", "DequantizeLinear")  # of their first input


@dataclass(frozen=True)
class LastLinear:
    """f = h W + whatever is added.

    Attributes:
        node: A Gemm or MatMul; its first input is h.
        added: What Add nodes put on the product, between it and the output.
    """

    node: ir.Node
    added: tuple[ir.Value, ...]


def last_linear(output: ir.Value) -> LastLinear:
    """The layer that makes an output.

    Raises:
        GraphError: It is made by another operator, or as a sum of several layers (a Gemm can add what another made).
    """
    value, added = output, []
    while (node := value.producer()) is not None and not node.domain and _keeps(node):
        if node.op_type == "Add":
            value, other = _summands(node)
            added.append(other)
        else:
            value = _first(node)
    if node is None or node.domain or node.op_type not in ("Gemm", "MatMul"):
        _refuse("the graph's input" if node is None else f"node {node.name!r} ({node.op_type})")
    _check(node, output)
    return LastLinear(node, tuple(added))


def features_of(op: Builder, layer: LastLinear) -> ir.Value:
    """What goes into the layer, [N, F]; axes of size 1 between them are taken away.

    Raises:
        GraphError: It has several rows per sample.
    """
    value = _first(layer.node)
    sizes: list[Any] = list(value.shape or [])
    if len(sizes) <= 2:
        return value
    if any(size != 1 for size in sizes[1:-1]):
        _refuse(f"that node {layer.node.name!r} ({layer.node.op_type}) works on {sizes}, several rows for each sample")
    return op.Flatten(value, axis=1)


def _keeps(node: ir.Node) -> bool:
    """Whether it leaves the numbers as they are, but for something added."""
    if node.op_type == "Cast":  # from half precision, which was made single
        return node.attributes.get_int("to", 0) == ir.DataType.FLOAT == _first(node).dtype
    return node.op_type in ("Add", *RESHAPING)


def _summands(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    """Of an Add: what depends on the graph's input, and the other, which must not."""
    one, other = (value for value in node.inputs if value is not None)
    if _varies(one) and _varies(other):
        _refuse(f"that node {node.name!r} (Add) sums {one.name!r} and {other.name!r}, which both depend on the input")
    return (one, other) if _varies(one) else (other, one)


def _varies(value: ir.Value) -> bool:
    """Whether a value depends on the graph's input."""
    seen, pending = set(), [value]
    while pending:
        value = pending.pop()
        node = value.producer()
        if node is None and value.const_value is None:
            return True
        if node is not None and node not in seen:
            seen.add(node)
            pending += [each for each in node.inputs if each is not None]
    return False


def _check(node: ir.Node, output: ir.Value) -> None:
    """Samples are rows of its first input, what it adds is constant, and its output has rows as the network's."""
    what = f"that node {node.name!r} ({node.op_type})"
    if node.attributes.get_int("transA", 0) or not _varies(_first(node)):
        _refuse(f"{what} has its samples in columns")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and _varies(bias):
        _refuse(f"{what} adds {bias.name!r}, which depends on the input, too")
    made, answered = (list(value.shape or [None])[-1] for value in (node.outputs[0], output))
    if isinstance(made, int) and isinstance(answered, int) and made != answered:
        _refuse(f"{what} gives rows of {made} numbers where the output has rows of {answered}")


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    if value is None:
        _refuse(f"node {node.name!r} ({node.op_type}) without its first input")
    return value


def _refuse(found: str) -> NoReturn:
    raise GraphError(
        "looking for the penultimate features: expected the output to come from a fully connected layer "
        f"(Gemm or MatMul), found {found}; use a head that needs only logits or sensitivities"
    )
