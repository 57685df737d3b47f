"""Operators that are made of others are read as their parts, and gradients go through them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from sparsense.autodiff import differentiate
from sparsense.data.preprocessing import Preprocessing
from sparsense.graph.forward import forward_graph
from sparsense.graph.load import load_graph
from sparsense.graph.run import Session

PLAIN = Preprocessing(layout="ND", dtype="float32", scale=1.0)


def attention(opset: int, causal: int) -> onnx.ModelProto:
    """Rows [N, 24] as 2 heads of 4 tokens of 3 numbers, which attend to each other."""
    shape = numpy_helper.from_array(np.asarray([-1, 2, 4, 3]), "shape")
    flat = numpy_helper.from_array(np.asarray([-1, 24]), "flat")
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["q"]),
        helper.make_node("Tanh", ["q"], ["k"]),
        helper.make_node("Attention", ["q", "k", "q"], ["a"], is_causal=causal),
        helper.make_node("Reshape", ["a", "flat"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 24]) for name in "xy"]
    graph = helper.make_graph(nodes, "attention", ends[:1], ends[1:], [shape, flat])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention(opset: int, causal: int) -> None:
    network = forward_graph(load_graph(attention(opset, causal)), PLAIN)
    assert "Attention" not in {node.op_type for node in network.model.graph}
    random = np.random.default_rng(0)
    inputs, seed = (random.normal(size=(3, 24)).astype(np.float32) for _ in range(2))
    weighted = network.op.constant(seed)
    slope = differentiate(network.op, of=network.output, wrt=[network.target], seed=weighted)[network.target]
    found: list[np.ndarray] = Session(network.model, [network.output, slope])(inputs)
    x = torch.tensor(inputs, dtype=torch.float64, requires_grad=True)
    q = x.reshape(-1, 2, 4, 3)
    y = F.scaled_dot_product_attention(q, q.tanh(), q, is_causal=bool(causal)).reshape(-1, 24)
    (wanted,) = torch.autograd.grad((y * torch.tensor(seed)).sum(), x)
    np.testing.assert_allclose(found[0], y.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(found[1], wanted.numpy(), atol=1e-5)
    assert isinstance(network.model, ir.Model)
