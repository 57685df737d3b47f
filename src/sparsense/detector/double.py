"""A graph evaluated in float64 by the reference implementation of ONNX: the oracle where there is no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from sparsense.graph.forward import ForwardGraph
from sparsense.graph.run import with_outputs
from sparsense.parity import disturb

Array = NDArray[Any]

# What the reference implementation raises for an operator, type or attribute that it does not know.
CANNOT = (NotImplementedError, RuntimeError, TypeError, ValueError, LookupError, AttributeError)


class Double:
    """Some values of a model, all float32 arithmetic done in float64.

    Args:
        model: The graph; it is copied.
        outputs: Which values.
        disturbed: Names of constants to move by about a rounding error.
        seed: Of that disturbance.

    Raises:
        One of `CANNOT`: An operator without a reference implementation.
    """

    def __init__(
        self, model: ir.Model, outputs: Sequence[ir.Value], *, disturbed: Collection[str] = (), seed: int = 0
    ) -> None:
        proto = ir.to_proto(with_outputs(model, outputs))
        widen(proto.graph)
        random = np.random.default_rng(seed)
        for tensor in proto.graph.initializer:
            if tensor.name in disturbed:
                tensor.CopyFrom(numpy_helper.from_array(disturb(numpy_helper.to_array(tensor), random), tensor.name))
        self._evaluator = ReferenceEvaluator(proto)
        self._input = proto.graph.input[0].name

    def __call__(self, inputs: Array) -> list[NDArray[np.float64]]:
        """Inputs as the model takes them; float32 ones become float64."""
        wide = inputs.astype(np.float64) if inputs.dtype == np.float32 else inputs
        outputs: Any = self._evaluator.run(None, {self._input: wide})
        return list(outputs)


def behind_preprocessing(network: ForwardGraph, names: Collection[str]) -> Double:
    """Values of a network, by name, for inputs that went through its preprocessing already."""
    network = network.copy()
    probe = ir.val("probe", network.target.dtype, network.target.shape)
    network.target.replace_all_uses_with(probe)
    network.model.graph.inputs.insert(0, probe)
    values = [value for node in network.model.graph for value in node.outputs if value.name in names]
    return Double(network.model, values)


def widen(graph: GraphProto) -> None:
    """Turn every float32 of a graph into float64, in place: types, constants, casts, and the bodies of branches."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        tensor = value.type.tensor_type
        tensor.elem_type = _wide(tensor.elem_type)
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for attribute in _attributes(graph):
        if attribute.type == AttributeProto.TENSOR:
            _widen_tensor(attribute.t)
        elif attribute.name in ("to", "dtype") and attribute.type == AttributeProto.INT:
            attribute.i = _wide(attribute.i)
        elif attribute.type == AttributeProto.GRAPH:
            widen(attribute.g)


def _attributes(graph: GraphProto) -> Iterator[AttributeProto]:
    for node in graph.node:
        yield from node.attribute


def _wide(element: int) -> int:
    return int(TensorProto.DOUBLE if element == TensorProto.FLOAT else element)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
