"""Models in other floating-point types, turned into float32, in which detectors compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import AttributeProto, GraphProto, TensorProto, helper, numpy_helper

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
NARROW: dict[int, int] = {int(kind): int(TensorProto.FLOAT) for kind in HALVES}


def to_single(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in float32: weights, casts and inputs in half precision, and in double where the input is double.

    The numbers stored stay the same (half to single is exact); what the network computes is closer to exact numbers
    than in half precision.
    """
    types: dict[int, int] = {**NARROW}
    if any(value.type.tensor_type.elem_type == TensorProto.DOUBLE for value in proto.graph.input):
        types[int(TensorProto.DOUBLE)] = int(TensorProto.FLOAT)
    if not _uses(proto.graph, types):
        return proto
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    retype(changed.graph, types)
    return changed


def is_half(proto: onnx.ModelProto) -> bool:
    """Whether anything in a model is stored in half precision."""
    return _uses(proto.graph, NARROW)


def retype(graph: GraphProto, types: Mapping[int, int]) -> None:
    """Exchange element types everywhere in a graph, in place: inputs, constants, casts, the bodies of branches."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        tensor = value.type.tensor_type
        tensor.elem_type = types.get(tensor.elem_type, tensor.elem_type)
    for tensor in graph.initializer:
        _retype_tensor(tensor, types)
    for attribute in _attributes(graph):
        if attribute.type == AttributeProto.TENSOR:
            _retype_tensor(attribute.t, types)
        elif attribute.name in ("to", "dtype") and attribute.type == AttributeProto.INT:
            attribute.i = types.get(attribute.i, attribute.i)
        elif attribute.type == AttributeProto.GRAPH:
            retype(attribute.g, types)


def _retype_tensor(tensor: TensorProto, types: Mapping[int, int]) -> None:
    if tensor.data_type in types:
        wanted = helper.tensor_dtype_to_np_dtype(types[tensor.data_type])
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(wanted), tensor.name))


def _uses(graph: GraphProto, types: Mapping[int, int]) -> bool:
    tensors = [*graph.initializer, *(a.t for a in _attributes(graph) if a.type == AttributeProto.TENSOR)]
    casts = [a.i for a in _attributes(graph) if a.name in ("to", "dtype") and a.type == AttributeProto.INT]
    given = [value.type.tensor_type.elem_type for value in graph.input]
    inner = [a.g for a in _attributes(graph) if a.type == AttributeProto.GRAPH]
    return bool(types.keys() & {*(t.data_type for t in tensors), *casts, *given}) or any(_uses(g, types) for g in inner)


def _attributes(graph: GraphProto) -> Iterator[AttributeProto]:
    for node in graph.node:
        yield from node.attribute
