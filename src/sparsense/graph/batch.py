"""A batch axis that a file fixed is made free: sizes baked into it are found, rewritten, and the result compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import prod
from operator import mul
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.errors import GraphError
from sparsense.graph.build import infer_outputs
from sparsense.graph.run import Session
from sparsense.graph.simplify import simplify

SIZES = (1, 2, 3)  # batches at which the two are compared
TOLERANCE = 1e-4  # of the largest output
FREE_SIDE = 32  # for a height or width that is free
Array = NDArray[Any]


def free_batch(model: ir.Model) -> ir.Model:
    """The simplified network for any number of samples, also where the file fixes their number.

    A Reshape, Expand, Resize or Concat that holds the batch size is rewritten. The result is run at batch 1, 2 and 3
    and compared with the model as it was given.

    Args:
        model: As loaded; one float32 input with the samples along its first axis.

    Raises:
        GraphError: The outputs differ, or cannot be computed; names the nodes that may hold the batch size.
    """
    fixed = model.graph.inputs[0].shape[0] if model.graph.inputs[0].shape else None
    if not isinstance(fixed, int):
        return simplify(model)
    given, free = simplify(model), model.clone()
    before = {
        str(value.name): list(value.shape) for node in given.graph for value in node.outputs if value.shape is not None
    }
    _forget_batch(free.graph)
    free = simplify(free)
    suspects = _rewrite(free.graph, fixed, before)
    free = simplify(free)
    free.graph.outputs[0].shape = _freed(given.graph.outputs[0], fixed)
    _compare(given, free, fixed, suspects)
    return free


def _forget_batch(graph: ir.Graph) -> None:
    given = graph.inputs[0]
    given.shape = ir.Shape(["N", *list(given.shape or [])[1:]])
    for node in graph:
        for output in node.outputs:
            output.shape = None


def _freed(output: ir.Value, fixed: int) -> ir.Shape | None:
    sizes = [] if output.shape is None else list(output.shape)
    return ir.Shape(["N", *sizes[1:]]) if sizes[:1] == [fixed] else output.shape


# --- the walk ---------------------------------------------------------------------------------------------------------


def _rewrite(graph: ir.Graph, fixed: int, before: Mapping[str, Sequence[Any]]) -> list[str]:
    """Rewrite what holds the batch size, in the order of the graph; names the nodes behind which it is not free."""
    suspects = []
    for node in list(graph):
        if node.domain:
            continue
        if node.op_type in _REWRITES:
            _REWRITES[node.op_type](graph, node, fixed)
        infer_outputs(node, graph.opset_imports[""])
        for output in node.outputs:
            _name_axis(node, output, fixed, before)
        if node.op_type not in ("Shape", "Size") and any(map(_is_free, node.inputs)) and not _is_free(node.outputs[0]):
            suspects.append(f"{node.name!r} ({node.op_type})")
    return suspects


def _is_free(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and any(not isinstance(size, int) for size in value.shape)


def _reshape(graph: ir.Graph, node: ir.Node, fixed: int) -> None:
    """Let the axis that holds the samples be whatever is left."""
    data, shape = node.inputs[:2]
    place = _place(data, fixed)
    if place is None or data is None or shape is None or shape.const_value is None:
        return
    before, total = place
    sizes = _resolved([int(size) for size in shape.const_value.numpy()], data, total)
    axis = None if sizes is None else _holder(sizes, before, fixed, len(data.shape or []))
    if sizes is None or axis is None:
        return
    sizes[axis] = -1
    node.replace_input_with(1, _constant(graph, np.asarray(sizes, np.int64), f"{node.name}.free_shape"))


def _place(data: ir.Value | None, fixed: int) -> tuple[int, int] | None:
    """How many elements lie before the samples, and how many there are, for the batch that was fixed."""
    if data is None or data.shape is None:
        return None
    unknown = [axis for axis, size in enumerate(data.shape) if not isinstance(size, int)]
    parts = _parts(data.shape[unknown[0]]) if len(unknown) == 1 else None
    if parts is None:
        return None
    outer, inner = parts
    sizes = [size if isinstance(size, int) else outer * fixed * inner for size in data.shape]
    return prod(sizes[: unknown[0]]) * outer, prod(sizes)


def _parts(size: int | ir.SymbolicDim) -> tuple[int, int] | None:
    """N -> (1, 1); 3*N*4, samples merged with three windows before and four heads behind them -> (3, 4)."""
    name = str(size.value if isinstance(size, ir.SymbolicDim) else size)
    outer, _, inner = ("1*N*1" if name == "N" else name).partition("*N*")
    return (int(outer), int(inner)) if outer.isdigit() and inner.isdigit() else None


def _resolved(sizes: list[int], data: ir.Value | None, total: int) -> list[int] | None:
    """The target of a Reshape in numbers; None where it is free already."""
    given = list(data.shape or []) if data is not None else []
    if any(size == 0 and not isinstance(given[axis], int) for axis, size in enumerate(sizes)):
        return None
    known = [int(str(given[axis])) if size == 0 else size for axis, size in enumerate(sizes)]
    rest = total // max(prod(size for size in known if size != -1), 1)
    return [rest if size == -1 else size for size in known]


def _holder(sizes: Sequence[int], before: int, fixed: int, rank: int) -> int | None:
    """The axis of the target in which the samples lie, for elements keep their order.

    A batch of one fits in several places. The likeliest is chosen, and the outcome is compared at the end: an axis of
    their own; in fewer axes than before, behind the windows they were merged with; else before their own heads.
    """
    starts = [1, *accumulate(sizes, mul)][: len(sizes)]

    def likelihood(axis: int) -> tuple[bool, bool, bool, int]:
        outer, inner = before // starts[axis], starts[axis] * sizes[axis] // (before * fixed)
        return outer == inner == 1, len(sizes) < rank and inner == 1, outer == 1, -axis

    fitting = [
        axis
        for axis, (start, size) in enumerate(zip(starts, sizes, strict=True))
        if before % start == 0 and start * size % (before * fixed) == 0
    ]
    return max(fitting, key=likelihood, default=None)


def _name_axis(node: ir.Node, output: ir.Value, fixed: int, before: Mapping[str, Sequence[Any]]) -> None:
    """Call the one free axis N, or 3*N*4 where it holds parts of each sample: the next Reshape has to know."""
    sizes: list[Any] = list(output.shape or [])
    known = before.get(str(output.name), ())
    unknown = [axis for axis, size in enumerate(sizes) if not isinstance(size, int)]
    if len(unknown) != 1 or len(known) != len(sizes) or not isinstance(known[unknown[0]], int):
        return
    axis = unknown[0]
    outer = _windows(node, prod(known[:axis]), fixed)
    inner = known[axis] // (fixed * outer)
    sizes[axis] = "N" if outer == inner == 1 else f"{outer}*N*{inner}"
    output.shape = ir.Shape(sizes)


def _windows(node: ir.Node, start: int, fixed: int) -> int:
    """How many windows lie before the samples in the free axis of a node's output."""
    data = next(filter(_is_free, node.inputs), None)
    place = _place(data, fixed)
    if place is None or data is None or data.shape is None:
        return 1
    if node.op_type == "Reshape":
        return max(place[0] // start, 1)
    (parts,) = (_parts(size) for size in data.shape if not isinstance(size, int))
    return 1 if parts is None else parts[0]


def _expand(graph: ir.Graph, node: ir.Node, fixed: int) -> None:
    """A size of 1 keeps the samples' axis as long as it is."""
    data, shape = node.inputs[:2]
    if _place(data, fixed) is None or data is None or shape is None or shape.const_value is None:
        return
    sizes, given = shape.const_value.numpy().copy(), list(data.shape or [])
    offset = len(sizes) - len(given)
    for axis, size in enumerate(given):
        if offset + axis >= 0 and not isinstance(size, int):
            sizes[offset + axis] = 1
    node.replace_input_with(1, _constant(graph, sizes, f"{node.name}.free_shape"))


def _resize(graph: ir.Graph, node: ir.Node, fixed: int) -> None:
    """Sizes of all axes become sizes of all axes but the first."""
    sizes = node.inputs[3] if len(node.inputs) > 3 else None
    if sizes is None or sizes.const_value is None or "axes" in node.attributes or _place(node.inputs[0], fixed) is None:
        return
    wanted = sizes.const_value.numpy()
    node.attributes.add(ir.AttrInt64s("axes", list(range(1, len(wanted)))))
    node.replace_input_with(3, _constant(graph, wanted[1:], f"{node.name}.free_sizes"))


def _concat(graph: ir.Graph, node: ir.Node, fixed: int) -> None:
    """A constant beside the samples (a class token) is repeated for each of them."""
    free = next((value for value in node.inputs if _place(value, fixed) is not None), None)
    if free is None or free.shape is None or isinstance(free.shape[0], int) or node.attributes.get_int("axis") == 0:
        return
    for index, value in enumerate(node.inputs):
        constant = None if value is None or value.const_value is None else value.const_value.numpy()
        if constant is not None and len(constant) == fixed and (constant == constant[:1]).all():
            repeated = _repeated(graph, node, free, constant[:1], index)
            node.replace_input_with(index, repeated)


def _repeated(graph: ir.Graph, node: ir.Node, free: ir.Value, row: Array, index: int) -> ir.Value:
    stem = f"{node.name}.rows_{index}"
    samples = ir.node("Shape", [free], {"start": 0, "end": 1}, name=f"{stem}.samples")
    ones = _constant(graph, np.ones(row.ndim - 1, np.int64), f"{stem}.ones")
    shape = ir.node("Concat", [samples.outputs[0], ones], {"axis": 0}, name=f"{stem}.shape")
    expand = ir.node("Expand", [_constant(graph, row, stem), shape.outputs[0]], name=f"{stem}.expand")
    for new in (samples, shape, expand):
        new.outputs[0].name = new.name
    graph.insert_before(node, [samples, shape, expand])
    expand.outputs[0].dtype = ir.DataType.from_numpy(row.dtype)
    expand.outputs[0].shape = ir.Shape(["N", *row.shape[1:]])
    return expand.outputs[0]


def _constant(graph: ir.Graph, array: Array, name: str) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    return value


_REWRITES: dict[str, Callable[[ir.Graph, ir.Node, int], None]] = {
    "Concat": _concat,
    "Expand": _expand,
    "Reshape": _reshape,
    "Resize": _resize,
}


# --- the proof --------------------------------------------------------------------------------------------------------


def _compare(model: ir.Model, free: ir.Model, fixed: int, suspects: Sequence[str]) -> None:
    given = model.graph.inputs[0]
    sizes = [size if isinstance(size, int) else FREE_SIDE for size in list(given.shape or [])[1:]]
    inputs = np.random.default_rng(0).uniform(0, 1, (max(SIZES), *sizes)).astype(np.float32)
    expected = in_batches(Session(model, threads=1), inputs, fixed)
    try:
        session = Session(free, threads=1)
        found = [session(inputs[:size])[0] for size in SIZES]
    except GraphError as error:
        raise _refusal(str(given.name), fixed, suspects, str(error)) from error
    scale = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    for size, one in zip(SIZES, found, strict=True):
        if one.shape != expected[:size].shape:
            raise _refusal(str(given.name), fixed, suspects, f"an output of shape {list(one.shape)} at batch {size}")
        if not np.abs(one - expected[:size]).max() <= TOLERANCE * scale:
            raise _refusal(str(given.name), fixed, suspects, f"other outputs at batch {size}")


def _refusal(name: str, fixed: int, suspects: Sequence[str], found: str) -> GraphError:
    nodes = ", ".join(suspects) or "not recognised"
    return GraphError(
        f"making the batch axis of input {name!r} free, which the file fixes at {fixed}: expected the same outputs at "
        f"batch {', '.join(map(str, SIZES))} as before, found {found}; nodes that hold the batch size: {nodes}; "
        "export the model with a free (dynamic) batch axis"
    )


def in_batches(session: Session, inputs: Array, size: int) -> Array:
    """The first output of a model that takes exactly so many samples at once; the last batch is filled up."""
    return np.concatenate(list(_pieces(session, inputs, size)))[: len(inputs)]


def _pieces(session: Session, inputs: Array, size: int) -> Iterator[Array]:
    for start in range(0, len(inputs), size):
        (output, *_) = session(np.resize(inputs[start : start + size], (size, *inputs.shape[1:])))
        yield output if output.ndim and len(output) == size else np.broadcast_to(output, (size, *output.shape))
