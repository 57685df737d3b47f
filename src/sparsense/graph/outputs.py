"""Which value of a graph is the network's answer: files of other makers put labels, probabilities or tables first."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from sparsense.errors import GraphError
from sparsense.graph.load import without_maps
from sparsense.reading import reading

SQUASHING = ("LogSoftmax", "Sigmoid", "Softmax")  # behind these stand probabilities, in front of them logits
PROBABILITIES = ("Sigmoid", "Softmax")  # a LogSoftmax answers with logits, but for a constant


def choose_output(model: ir.Model, name: str | None = None, *, what: str = "the model") -> ir.Model:
    """The model with one output: the one that is named, or the first; nodes that it does not need are dropped.

    Args:
        model: As loaded.
        name: Any floating-point value of the graph, also one inside: the logits in front of a Softmax.
        what: What messages call the model.

    Raises:
        GraphError: There is no such value, or it holds no numbers; lists the choices.
    """
    with reading(f"choosing the output of {what}"):
        return _choose(model, name, what)


def _choose(model: ir.Model, name: str | None, what: str) -> ir.Model:
    typed = ir.from_proto(without_maps(onnx.shape_inference.infer_shapes(ir.to_proto(model))))
    value = typed.graph.outputs[0] if name is None else _values(typed.graph).get(name)
    if value is None or not is_numbers(value):
        found = "no such value" if value is None else f"it holds {_kind(value)}"
        raise GraphError(
            f"choosing the output of {what}: expected {f'{name!r}' if name else 'the first'} to be a floating-point "
            f"tensor, found {found if name or value is None else f'{value.name!r}, and {found}'}; "
            f"name one of: {', '.join(choices(typed)) or '(none)'}"
        )
    typed.graph.outputs[:] = [value]
    common.RemoveUnusedNodesPass()(typed)
    return typed


def choices(model: ir.Model) -> list[str]:
    """What a user may want as output, described: the file's own, and what goes into a final Softmax or a table."""
    own = [f"{value.name!r} (an output)" for value in model.graph.outputs if is_numbers(value)]
    squashed = [node for node in model.graph if not node.domain and node.op_type in SQUASHING]
    inner = [f"{node.inputs[0].name!r} (what goes into {node.op_type})" for node in squashed[-1:] if node.inputs[0]]
    tables = [value for node in model.graph if node.op_type == "ZipMap" for value in node.inputs if value is not None]
    return own + inner + [f"{value.name!r} (what goes into ZipMap)" for value in tables]


def logits_before(value: ir.Value) -> str | None:
    """The name of what a Softmax or Sigmoid turned into this value; None when it is not made by one."""
    node = squashed_by(value)
    return None if node is None or node.inputs[0] is None else node.inputs[0].name


def squashed_by(value: ir.Value) -> ir.Node | None:
    """The Softmax or Sigmoid, with or without logarithm, that this value comes out of."""
    node = value.producer()
    while node is not None and node.op_type in ("Cast", "Identity", "Reshape"):
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return None if node is None or node.domain or node.op_type not in SQUASHING else node


def in_front_of_softmax(model: ir.Model) -> ir.Model:
    """The model with its logits as output, where it has a matrix of them and answers with probabilities."""
    answer = model.graph.outputs[0]
    logits = _values(model.graph).get(logits_before(answer))
    if logits is None or not is_numbers(logits) or logits.shape is None or len(logits.shape) != 2:
        return model
    return choose_output(model, logits.name)


def is_numbers(value: ir.Value) -> bool:
    """Whether a value is a tensor of floating-point numbers."""
    return isinstance(value.type, ir.TensorType) and value.type.dtype.is_floating_point()


def _values(graph: ir.Graph) -> dict[str | None, ir.Value]:
    return {output.name: output for node in graph for output in node.outputs}


def _kind(value: ir.Value) -> str:
    if isinstance(value.type, ir.TensorType):
        return f"{value.type.dtype.name.lower()} numbers"
    return "no numbers of a known type, such as a table or list"
