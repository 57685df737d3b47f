"""A network's graph from the user's input to its output, ready to carry a head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import GraphError
from sparsense.graph.batch import free_batch
from sparsense.graph.build import Builder
from sparsense.graph.encode import encoded
from sparsense.graph.last_linear import features_of, last_linear
from sparsense.graph.probe import learn_shapes
from sparsense.graph.simplify import simplify
from sparsense.reading import reading

Task = Literal["classifier", "reconstruction"]


@dataclass
class ForwardGraph:
    """Preprocessing and network in one graph; heads add their nodes to it.

    Attributes:
        model: The graph, owned by this object.
        input: What the user gives: uint8 `[N, H, W, C]` or `[N, C, H, W]`, or float32 `[N, D]`.
        target: The network's own input, float32; what a reconstruction is compared with.
        output: Logits `[N, K]`, or a reconstruction shaped like `target`.
        op: Adds nodes.
        task: What the output means.
        remembered: What the network's training has kept for its detector, by the names of parameters.
        group: Inputs judged as one; above 1 the input is `[groups, group, ...]`, see `taking_groups`.
    """

    model: ir.Model
    input: ir.Value
    target: ir.Value
    output: ir.Value
    op: Builder
    task: Task
    remembered: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    group: int = 1

    @property
    def features(self) -> ir.Value:
        """Input `[N, F]` of the last fully connected layer; GraphError when the output does not come from one."""
        return features_of(self.op, last_linear(self.output))

    @property
    def last_linear(self) -> ir.Node:
        """The node (Gemm or MatMul) that makes the logits."""
        return last_linear(self.output).node

    def copy(self) -> ForwardGraph:
        """An independent copy, so that a head can add throw-away nodes."""
        model = self.model.clone()
        values = {v.name: v for v in [*model.graph.inputs, *(o for node in model.graph for o in node.outputs)]}
        given, target, output = (values[value.name] for value in (self.input, self.target, self.output))
        return replace(self, model=model, input=given, target=target, output=output, op=Builder(model.graph))


def forward_graph(model: ir.Model, preprocessing: Preprocessing, *, task: Task = "classifier") -> ForwardGraph:
    """Simplify a model and put the preprocessing in front of it.

    Args:
        model: One float32 input `[N, C, H, W]` or `[N, D]`, first output = logits or reconstruction.
        preprocessing: What turns the user's input into the network's.
        task: What the output means.

    Raises:
        GraphError: The model has several inputs, or its input does not fit the preprocessing.
    """
    with reading("preparing the model"):
        model = _single(model)
        _check_input(model.graph.inputs[0], preprocessing)
        model = free_batch(model)
        learn_shapes(model)
        return _prepend(model, model.graph.inputs[0], model.graph.outputs[0], preprocessing, task)


def bare_graph(model: ir.Model) -> ForwardGraph:
    """A model as it is, without preprocessing: to look at its layers.

    Raises:
        GraphError: The model has several inputs.
    """
    with reading("preparing the model"):
        model = _single(model)
        model = free_batch(model) if model.graph.inputs[0].dtype == ir.DataType.FLOAT else simplify(model)
        learn_shapes(model)
    given, output = model.graph.inputs[0], model.graph.outputs[0]
    return ForwardGraph(model, given, given, output, Builder(model.graph), "classifier")


def _single(model: ir.Model) -> ir.Model:
    model = model.clone()
    graph = model.graph
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    if len(inputs) != 1:
        names = ", ".join(f"{value.name!r} {list(value.shape or [])}" for value in inputs)
        raise GraphError(
            f"preparing the model: expected exactly one input, found {len(inputs)} ({names}); "
            "store weights as initializers with their numbers, and export the model with one input"
        )
    graph.inputs[:] = inputs
    return model


def _check_input(value: ir.Value, preprocessing: Preprocessing) -> None:
    if value.dtype != ir.DataType.FLOAT:
        raise GraphError(
            f"preparing input {value.name!r}: expected float32, found {value.dtype}; "
            "export the network with a float32 input"
        )
    if value.shape is None:
        raise GraphError(
            f"preparing input {value.name!r}: expected a known rank, found none; "
            "export the model with the shape of its input"
        )
    rank = 2 if preprocessing.layout == "ND" else 4
    if len(value.shape) != rank:
        raise GraphError(
            f"preparing input {value.name!r}: layout {preprocessing.layout} expects rank {rank}, "
            f"found shape {list(value.shape)}; give the layout that fits"
        )
    channels, given = value.shape[1], max(len(preprocessing.mean), len(preprocessing.std))
    if preprocessing.encoding is not None and channels != (features := len(preprocessing.encoding.features)):
        raise GraphError(
            f"preparing input {value.name!r}: the table's {len(preprocessing.columns)} columns become {features} "
            f"numbers, and the network takes {channels}; make it for {features}"
        )
    if isinstance(channels, int) and given not in (1, channels):
        raise GraphError(
            f"preparing input {value.name!r}: expected 1 or {channels} values of mean and std, found {given}"
        )


def _prepend(
    model: ir.Model, network_input: ir.Value, output: ir.Value, preprocessing: Preprocessing, task: Task
) -> ForwardGraph:
    """Build a new graph: input -> preprocessing -> the old nodes, so that the order stays topological."""
    graph = model.graph
    batch, *sizes = list(network_input.shape or [None])
    _name_batch_axis(graph, batch)
    shape: list[Any] = ["N", *sizes]
    user_shape: Any = ["N", *sizes[1:], sizes[0]] if preprocessing.layout == "NHWC" else shape
    if preprocessing.columns:
        user_shape = ["N", len(preprocessing.columns)]
    dtype = ir.DataType.UINT8 if preprocessing.dtype == "uint8" else ir.DataType.FLOAT
    network_input.name = "network_input"
    user_input = ir.val("input", dtype, user_shape)
    op, nodes = Builder(graph), list(graph)  # made while the old nodes are there, so that no name is given twice
    graph.remove(nodes)
    graph.inputs[:] = [user_input]
    target = _preprocess(op, user_input, preprocessing)
    target.shape = ir.Shape(shape)
    network_input.replace_all_uses_with(target)
    graph.extend(nodes)
    output.name = "output"
    graph.outputs[:] = [output]
    return ForwardGraph(model, user_input, target, output, Builder(graph), task)


def _name_batch_axis(graph: ir.Graph, batch: int | ir.SymbolicDim | None) -> None:
    """Call the batch axis N wherever it appears under its old name."""
    if not isinstance(batch, ir.SymbolicDim) or batch.value is None:
        return
    for value in (output for node in graph for output in node.outputs):
        if value.shape is not None:
            value.shape = ir.Shape(["N" if dim == batch else dim for dim in value.shape])


def _preprocess(op: Builder, value: ir.Value, preprocessing: Preprocessing) -> ir.Value:
    scale, shift = preprocessing.affine()
    if preprocessing.encoding is not None:
        value = encoded(op, value, preprocessing.encoding)
    if preprocessing.layout == "NHWC":
        value = op.Transpose(value, perm=[0, 3, 1, 2])
    if preprocessing.dtype == "uint8":
        value = op.Cast(value, to=int(ir.DataType.FLOAT))
    if (scale != 1).any():
        value = op.Mul(value, scale)
    return op.Add(value, shift) if shift.any() else value
