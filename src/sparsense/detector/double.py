"""A graph evaluated in float64 by the reference implementation of ONNX: the oracle where there is no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import erf, pi, sqrt
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from sparsense.graph.forward import ForwardGraph
from sparsense.graph.precision import retype
from sparsense.graph.run import with_outputs
from sparsense.parity import disturb

Array = NDArray[Any]

# What the reference implementation raises for an operator, type or attribute that it does not know.
CANNOT = (NotImplementedError, RuntimeError, TypeError, ValueError, LookupError, AttributeError)


class Erf(OpRun):
    """The error function in full precision; onnx's own rounds to float32, and differences of it are noise."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (np.vectorize(erf, otypes=[x.dtype])(x),)


class Gelu(OpRun):
    """The same for what is made of it, which onnx evaluates with its own error function."""

    op_domain = ""

    def _run(self, x: Array, approximate: str | None = None) -> tuple[Array]:
        if approximate == "tanh":
            return (x / 2 * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))),)
        return (x / 2 * (1 + np.vectorize(erf, otypes=[x.dtype])(x / sqrt(2))),)


class GatherElements(OpRun):
    """By any axis and any number of indices; onnx's own takes no axis counted from the end, and few indices."""

    op_domain = ""

    def _run(self, data: Array, indices: Array, axis: int | None = None) -> tuple[Array]:
        axis = (axis or 0) % data.ndim
        part = tuple(slice(None if i == axis else size) for i, size in enumerate(indices.shape))
        return (np.take_along_axis(data[part], indices, axis),)


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
        self._evaluator = ReferenceEvaluator(proto, new_ops=[Erf, Gelu, GatherElements])
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
    retype(graph, {TensorProto.FLOAT: TensorProto.DOUBLE})
