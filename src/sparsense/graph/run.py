"""Run a model in memory: one session, or a stream of batches in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from sparsense.errors import GraphError
from sparsense.reading import first_line

RUN_ERRORS = (ort_errors.Fail, ort_errors.InvalidArgument, ort_errors.NotImplemented, ort_errors.RuntimeException)
Arrays = list[NDArray[Any]]


class Session:
    """A model in ONNX Runtime, asked for some of its values.

    Args:
        model: A serialised model, or one still being built.
        outputs: The values to return, whether or not they are graph outputs; default: the graph's outputs.
        threads: Intra-operator threads; None leaves the choice to the runtime.
        optimise: False runs the nodes as they are, for a second opinion on a graph.
    """

    def __init__(
        self,
        model: ir.Model | bytes,
        outputs: Sequence[ir.Value] | None = None,
        *,
        threads: int | None = None,
        optimise: bool = True,
    ) -> None:
        if not isinstance(model, bytes):
            asked = model if outputs is None else with_outputs(model, outputs)
            model = ir.to_proto(asked).SerializeToString()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # waiting threads leave the cores alone
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except (
            Exception
        ) as error:  # onnxruntime's exceptions share no base class; every one of them means "cannot load"
            raise GraphError(f"loading a graph in ONNX Runtime {ort.__version__}: {first_line(error)}") from error
        self.input_names = [entry.name for entry in self._session.get_inputs()]

    def __call__(self, feeds: Mapping[str, NDArray[Any]] | NDArray[Any]) -> Arrays:
        """Run once; a single array goes to the first input."""
        if isinstance(feeds, np.ndarray):
            feeds = {self.input_names[0]: feeds}
        try:
            outputs: Arrays = self._session.run(None, dict(feeds))
        except RUN_ERRORS as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise GraphError(f"running a graph on {shapes}: {first_line(error)}") from error
        return outputs


def stream(
    model: ir.Model, outputs: Sequence[ir.Value], *columns: NDArray[Any], batch_size: int = 64
) -> Iterator[Arrays]:
    """Run over consecutive batches of the columns (inputs, and whatever other inputs the model has, in order)."""
    session = Session(model, outputs)
    names = session.input_names[: len(columns)]
    for start in range(0, len(columns[0]), batch_size):
        yield session({name: column[start : start + batch_size] for name, column in zip(names, columns, strict=True)})


def with_outputs(model: ir.Model, outputs: Sequence[ir.Value] | None) -> ir.Model:
    """A copy of the model that computes just these values, in this order."""
    copy = model.clone()
    if outputs is not None:
        by_name = {value.name: value for value in [*copy.graph.inputs, *copy.graph.initializers.values()]}
        by_name |= {output.name: output for node in copy.graph for output in node.outputs}
        copy.graph.outputs[:] = [_named(copy.graph, by_name[value.name], i) for i, value in enumerate(outputs)]
        common.RemoveUnusedNodesPass()(copy)
    return copy


def _named(graph: ir.Graph, value: ir.Value, index: int) -> ir.Value:
    """A copy under a name of its own: an input, an initializer or a value asked for twice cannot be outputs."""
    node = ir.node("Identity", [value], name=f"asked_{index}")
    node.outputs[0].name = f"asked_{index}:{value.name}"
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    graph.append(node)
    return node.outputs[0]
