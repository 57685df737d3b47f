"""Small forward graphs written by hand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsense.data.preprocessing import Preprocessing
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph, forward_graph

PLAIN = Preprocessing(layout="NCHW", dtype="float32", scale=1.0)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def named(op: Builder, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
    op.graph.register_initializer(value)
    return value


def convolutional(extra: object = None) -> ForwardGraph:
    """Conv 3 -> 4 (stride 2), an operator of choice, Conv 4 -> 5, mean, fully connected 5 -> 2."""
    x = ir.val("x", ir.DataType.FLOAT, ["N", 3, 8, 8])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="convolutional")
    op = Builder(graph)
    y = op.Relu(op.Conv(x, named(op, "stem.weight", weights(4, 3, 3, 3)), pads=[1] * 4, strides=[2, 2]))
    y = extra(op, y) if callable(extra) else y
    y = op.Relu(op.Conv(y, named(op, "body.0.weight", weights(5, 4, 3, 3)), pads=[1] * 4))
    y = op.Flatten(op.GlobalAveragePool(y))
    y = op.Gemm(y, named(op, "fc.weight", weights(2, 5)), named(op, "fc.bias", weights(2)), transB=1)
    graph.outputs.append(y)
    return forward_graph(ir.Model(graph, ir_version=10), PLAIN)
