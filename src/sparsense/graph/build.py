"""Add nodes to a graph as if calling functions: `op.Mul(a, b)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import numpy as np
import onnx
import onnx_ir as ir

SHAPED_AS_INPUT = {"GroupNormalization"}  # operators whose schema cannot infer shapes
KNOWN = 4096  # elements of constants that shapes may depend on: a Split into the layers of a deep network has hundreds
Operand = ir.Value | np.ndarray | float | int | Sequence[int] | None


class Builder:
    """Appends nodes of the default domain to one graph; every attribute access is an operator.

    Operands may be values, numpy arrays, numbers (which take the type of the first value that is not a condition) or
    lists of integers (int64 vectors, as shapes and axes are written). Equal constants are shared, equal calls give
    the same value. Output types and shapes are inferred as nodes are added.

    Example:
        >>> graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, ["N", 3])], [], nodes=[], opset_imports={"": 20})
        >>> op = Builder(graph)
        >>> op.ReduceSum(op.Mul(graph.inputs[0], 2.0), [1], keepdims=0).shape
        Shape([SymbolicDim('N')])
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.opset = graph.opset_imports[""]
        self._names = {value.name for value in _all_values(graph)} | {node.name for node in graph}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._calls: dict[tuple[Any, ...], tuple[ir.Value, ...]] = {}

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)

        def call(*operands: Operand, **attributes: Any) -> ir.Value:
            return self.call(op_type, *operands, **attributes)[0]

        return call

    def call(self, op_type: str, *operands: Operand, outputs: int = 1, **attributes: Any) -> tuple[ir.Value, ...]:
        """Add one node and return all of its outputs."""
        dtype = next((value.dtype for value in operands if _is_number(value)), None)
        inputs = [self._value(operand, dtype) for operand in operands]
        key = (op_type, outputs, *map(id, inputs), repr(sorted(attributes.items())))
        if key not in self._calls:
            node = ir.node(op_type, inputs, attributes or None, num_outputs=outputs)
            for index, output in enumerate(node.outputs):
                output.name = self._fresh(f"{op_type}_{index}" if index else op_type)
            node.name = node.outputs[0].name
            self.graph.append(node)
            infer_outputs(node, self.opset)
            self._calls[key] = tuple(node.outputs)
        return self._calls[key]

    def constant(self, array: np.ndarray, name: str = "constant") -> ir.Value:
        """An initializer; an equal one is reused."""
        array = np.asarray(array, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            value = ir.Value(name=self._fresh(name), const_value=ir.tensor(array))
            value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
            self.graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def _value(self, operand: Operand, dtype: ir.DataType | None) -> ir.Value | None:
        if operand is None or isinstance(operand, ir.Value):
            return operand
        if isinstance(operand, np.ndarray):
            return self.constant(operand)
        if isinstance(operand, (list, tuple)):
            return self.constant(np.asarray(operand, np.int64))
        return self.constant(np.asarray(operand, (dtype or ir.DataType.FLOAT).numpy()))

    def _fresh(self, stem: str) -> str:
        name, count = stem, len(self._names)
        while name in self._names:
            name, count = f"{stem}_{count}", count + 1
        self._names.add(name)
        return name


def _is_number(operand: object) -> TypeGuard[ir.Value]:
    """Whether an operand can lend its type to a plain number; conditions cannot."""
    return isinstance(operand, ir.Value) and operand.dtype not in (None, ir.DataType.BOOL)


def _all_values(graph: ir.Graph) -> list[ir.Value]:
    outputs = [output for node in graph for output in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *outputs]


def infer_outputs(node: ir.Node, opset: int) -> None:
    """Set the type and shape of a node's outputs from its inputs, as far as the operator's schema knows them."""
    proto = ir.to_proto(node)
    types, data = {}, {}
    for value in node.inputs:
        if value is None or value.dtype is None or value.name is None:
            continue
        types[value.name] = type_proto(value)
        if value.const_value is not None and value.const_value.size <= KNOWN:
            data[value.name] = ir.to_proto(value.const_value)
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    inferred = onnx.shape_inference.infer_node_outputs(
        schema, proto, types, data, opset_imports=[onnx.helper.make_opsetid("", opset)]
    )
    for output in node.outputs:
        if node.op_type in SHAPED_AS_INPUT and node.inputs[0] is not None:
            output.type, output.shape = node.inputs[0].type, node.inputs[0].shape
        elif output.name in inferred:
            described = onnx.helper.make_value_info(output.name, inferred[output.name])
            result = ir.serde.deserialize_value_info_proto(described, None)
            output.type, output.shape = result.type, result.shape


def type_proto(value: ir.Value) -> onnx.TypeProto:
    """The ONNX type of a value; unknown sizes stay unknown."""
    shape = None if value.shape is None else [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    return onnx.helper.make_tensor_type_proto(int(value.dtype or 0), shape)
