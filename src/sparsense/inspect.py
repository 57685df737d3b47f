"""What is in an ONNX file: its card, inputs, outputs, operators, parameters, and what each layer costs."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from sparsense.errors import GraphError
from sparsense.reading import reading

Shape = tuple[int | str, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Value:
    """A named input or output of a graph; free sizes are texts."""

    name: str
    dtype: str
    shape: Shape


@dataclass(frozen=True)
class Inspection:
    """What can be read from a file without running it.

    Args:
        path: The file.
        size: In bytes, external data not counted.
        opset: Version of the default operator domain.
        inputs: Without those that have a default.
        outputs: In order.
        operators: Operator -> how many nodes, most frequent first.
        parameters: Floating-point numbers stored as tensors: weights, and the statistics of a head.
        card: The card of a detector, or None.
    """

    path: Path
    size: int
    opset: int
    inputs: list[Value]
    outputs: list[Value]
    operators: dict[str, int]
    parameters: int
    card: dict[str, Any] | None


@dataclass(frozen=True)
class LayerCost:
    """One node that multiplies; `multiply_adds` is for one sample, None where a shape is not known."""

    name: str
    operator: str
    output_shape: Shape
    parameters: int
    multiply_adds: int | None


def inspect_file(path: str | Path) -> Inspection:
    """Describe a model or a detector.

    Raises:
        GraphError: Not an ONNX file.
    """
    with reading(f"inspecting {path}"):
        return _describe(read_model(path), Path(path))


def _describe(model: onnx.ModelProto, path: Path) -> Inspection:
    given = {name for name, _, _ in _constants(model)}
    return Inspection(
        path=path,
        size=path.stat().st_size,
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        inputs=[_value(value) for value in model.graph.input if value.name not in given],
        outputs=[_value(value) for value in model.graph.output],
        operators=dict(Counter(node.op_type for node in model.graph.node).most_common()),
        parameters=sum(math.prod(dims) for dims in _weights(model).values()),
        card=_card(model),
    )


def layer_costs(path: str | Path) -> list[LayerCost]:
    """The nodes that multiply, in order, with their multiply-adds for one sample.

    Convolutions, matrix products and fully connected layers count, gradient nodes included; everything else is
    cheap beside them. Shapes are inferred with a batch of one.

    Raises:
        GraphError: Not an ONNX file.
    """
    with reading(f"inspecting {path}"):
        return _layer_costs(read_model(path))


def _layer_costs(model: onnx.ModelProto) -> list[LayerCost]:
    weights, shapes = _weights(model), _infer_shapes(model)
    return [
        LayerCost(
            name=node.name or node.output[0],
            operator=node.op_type,
            output_shape=shapes.get(node.output[0], ()),
            parameters=sum(math.prod(weights.get(name, (0,))) for name in node.input),
            multiply_adds=_COUNTS[node.op_type](node, shapes),
        )
        for node in model.graph.node
        if node.op_type in _COUNTS
    ]


def read_model(path: str | Path) -> onnx.ModelProto:
    """The parsed file; external data is not opened."""
    if not Path(path).is_file():
        raise GraphError(f"inspecting {path}: there is no such file")
    try:
        model = onnx.load_model(str(path), format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise GraphError(f"inspecting {path}: not an ONNX file ({error})") from error
    if not model.graph.node or not all(node.output for node in model.graph.node):
        raise GraphError(f"inspecting {path}: not an ONNX file, or one without nodes")
    return model


def _value(value: onnx.ValueInfoProto) -> Value:
    kind, tensor = value.type.WhichOneof("value"), value.type.tensor_type
    if kind != "tensor_type":
        return Value(value.name, str(kind).removesuffix("_type"), ())
    dtype = onnx.helper.tensor_dtype_to_string(tensor.elem_type).removeprefix("TensorProto.").lower()
    return Value(value.name, dtype, _sizes(tensor))


def _sizes(tensor: onnx.TypeProto.Tensor) -> Shape:
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim)


def _weights(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the learnt tensors: floating point, more than one number."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
    return {name: dims for name, kind, dims in _constants(model) if kind in floats and math.prod(dims) > 1}


def _constants(model: onnx.ModelProto) -> list[tuple[str, int, tuple[int, ...]]]:
    """Name, type and shape of all stored tensors, those that are stored sparse included."""
    graph = model.graph
    dense = [(tensor.name, tensor.data_type, tuple(tensor.dims)) for tensor in graph.initializer]
    return dense + [(s.values.name, s.values.data_type, tuple(s.dims)) for s in graph.sparse_initializer]


def _card(model: onnx.ModelProto) -> dict[str, Any] | None:
    text = next((entry.value for entry in model.metadata_props if entry.key == "sparsense.card"), None)
    try:
        return None if text is None else dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise GraphError(f"the card in the file is damaged ({error})") from error


def _infer_shapes(model: onnx.ModelProto) -> Shapes:
    """Shapes of all values, with 1 for the batch axis of the inputs."""
    for value in model.graph.input:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    shapes: dict[str, Shape] = {name: dims for name, _, dims in _constants(model)}
    for entry in model.graph.sparse_initializer:  # onnx takes them for another kind of value: told like inputs
        value = onnx.helper.make_tensor_value_info(entry.values.name, entry.values.data_type, list(entry.dims))
        model.graph.input.append(value)
    del model.graph.sparse_initializer[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph  # leaves out what contradicts itself
    values: Iterable[onnx.ValueInfoProto] = (*inferred.value_info, *inferred.input, *inferred.output)
    return shapes | {value.name: _sizes(value.type.tensor_type) for value in values}


def _product(*sizes: int | str) -> int | None:
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(sizes) else None


def _convolution(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Each output value (transposed: input) meets one filter; weights: [O, I / groups, ...] or [I, O / groups, ...]."""
    side = node.output[0] if node.op_type == "Conv" else node.input[0]
    weight = shapes.get(node.input[1], ())
    if side not in shapes or not weight:
        return None
    return _product(*shapes[side], *weight[1:])


def _matrix_product(node: onnx.NodeProto, shapes: Shapes) -> int | None:
    """Every output value is a dot product over the last axis of the first factor."""
    first, output = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    if not first or node.output[0] not in shapes:
        return None
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return _product(*output, first[0] if transposed else first[-1])


_COUNTS = {"Conv": _convolution, "ConvTranspose": _convolution, "MatMul": _matrix_product, "Gemm": _matrix_product}
