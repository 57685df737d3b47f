"""What gradients cannot cross is told beforehand, by node, with what to do; and by name when it is met."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from rule_cases.networks import convolutional
from sparsense.autodiff import differentiate, weighted_layers
from sparsense.autodiff.preflight import ELSEWHERE, FLOAT_NETWORK, preflight
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import GraphError, UnsupportedOperatorError
from sparsense.graph import ForwardGraph, forward_graph, load_graph
from sparsense.graph.build import Builder
from sparsense.graph.forward import bare_graph

node = helper.make_node
WEIGHT = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)


def network(*nodes: NodeProto, domain: str = "", **constants: np.ndarray) -> ForwardGraph:
    """x [N, 3] -> first layer `a` -> nodes from `a` to `b` -> last layer -> y."""
    chain = [node("MatMul", ["x", "w"], ["a"], "first"), *nodes, node("MatMul", ["b", "v"], ["y"], "last")]
    tensors = {"w": WEIGHT, "v": WEIGHT + 1, **constants}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy"]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    graph = helper.make_graph(chain, "g", ends[:1], ends[1:], initializers)
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(proto)
    return forward_graph(load_graph(proto), Preprocessing("ND", "float32", scale=1.0))


def gradient_of_all_layers(found: ForwardGraph) -> None:
    differentiate(found.op, of=found.output, wrt=[layer.output for layer in weighted_layers(found)])


def test_nothing_in_the_way() -> None:
    found = network(node("Tanh", ["a"], ["b"]))
    assert preflight(found) == []
    gradient_of_all_layers(found)


def test_an_operator_without_a_rule() -> None:
    found = network(
        node("Det", ["a3"], ["d"], "determinant"), node("Mul", ["a", "d"], ["b"]), *[], a3=np.eye(3, dtype=np.float32)
    )
    assert preflight(found) == []  # of a constant: no gradient has to cross it
    squares = [
        node("Unsqueeze", ["a", "one"], ["u"]),
        node("Mul", ["u", "eye"], ["m"]),
        node("Det", ["m"], ["d"], "determinant"),
        node("Unsqueeze", ["d", "one"], ["e"]),
        node("Mul", ["a", "e"], ["b"]),
    ]
    found = network(*squares, one=np.asarray([1]), eye=np.eye(3, dtype=np.float32)[None])
    (obstacle,) = preflight(found)
    assert (obstacle.node, obstacle.op_type) == ("determinant", "Det")
    assert str(obstacle).startswith("node 'determinant' (Det): restrict the head to later layers with layers=")
    with pytest.raises(UnsupportedOperatorError, match=r"node 'determinant' \(Det\) has no differentiation rule"):
        gradient_of_all_layers(found)


def test_an_operator_of_one_runtime() -> None:
    found = network(node("FastGelu", ["a"], ["b"], "fused", domain="com.microsoft"), domain="com.microsoft")
    (obstacle,) = preflight(found)
    assert (obstacle.node, obstacle.op_type, obstacle.advice) == ("fused", "com.microsoft.FastGelu", ELSEWHERE)
    with pytest.raises(UnsupportedOperatorError, match=r"node 'fused' \(com.microsoft.FastGelu\)"):
        gradient_of_all_layers(found)


QUANTISED = {
    "QuantizeLinear": [
        node("QuantizeLinear", ["a", "scale", "zero"], ["q"], "to_bytes"),
        node("DequantizeLinear", ["q", "scale", "zero"], ["b"], "from_bytes"),
    ],
    "QLinearMatMul": [
        node("QuantizeLinear", ["a", "scale", "zero"], ["q"], "to_bytes"),
        node("QLinearMatMul", ["q", "scale", "zero", "bytes", "scale", "zero", "scale", "zero"], ["r"], "in_bytes"),
        node("DequantizeLinear", ["r", "scale", "zero"], ["b"], "from_bytes"),
    ],
    "MatMulInteger": [
        node("DynamicQuantizeLinear", ["a"], ["q", "s", "z"], "to_bytes"),
        node("MatMulInteger", ["q", "bytes", "z"], ["r"], "in_bytes"),
        node("Cast", ["r"], ["b"], "to_float", to=TensorProto.FLOAT),
    ],
}


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_networks_are_named_node_by_node(kind: str) -> None:
    integers = {"scale": np.float32(0.02), "zero": np.uint8(128), "bytes": np.full((3, 3), 129, np.uint8)}
    found = network(*QUANTISED[kind], **integers)
    obstacles = {obstacle.node: obstacle.advice for obstacle in preflight(found)}
    quantised = {step.name for step in QUANTISED[kind] if step.op_type != "Cast"}
    assert quantised <= obstacles.keys() <= quantised | {"to_float"}
    assert {obstacles[name] for name in quantised} == {FLOAT_NETWORK}
    with pytest.raises(GraphError, match=r"'(to_bytes|from_bytes|to_float|in_bytes)' \("):
        gradient_of_all_layers(found)


def test_a_way_through_whole_numbers_alone() -> None:
    """ArgMax, then a table look-up: the first layer has no gradient, and the node that ends it is named."""
    steps = [node("ArgMax", ["a"], ["i"], "decides", axis=1, keepdims=0), node("Gather", ["table", "i"], ["b"])]
    found = network(*steps, table=WEIGHT)
    (obstacle,) = preflight(found)
    assert (obstacle.node, obstacle.op_type) == ("decides", "ArgMax")
    assert obstacle.advice.startswith("its output moves in steps")
    with pytest.raises(GraphError, match=r"does not depend on .*: gradients end at 'decides' \(ArgMax\), whose output"):
        gradient_of_all_layers(found)


def test_a_step_beside_another_way_is_no_obstacle() -> None:
    """y = a + Sign(a): the derivative of the step is zero wherever it exists, and the other way carries it."""
    found = network(node("Sign", ["a"], ["s"]), node("Add", ["a", "s"], ["b"]))
    assert preflight(found) == []
    gradient_of_all_layers(found)


def test_all_obstacles_are_listed() -> None:
    def two(op, y):  # type: ignore[no-untyped-def]
        for _ in range(2):
            y = op.GridSample(y, op.Tanh(op.Transpose(op.Slice(y, [0], [2], [1]), perm=[0, 2, 3, 1])))
        return y

    assert [obstacle.op_type for obstacle in preflight(convolutional(two))] == ["GridSample", "GridSample"]


def test_parts_of_an_operator_that_was_written_out_have_names(tmp_path: Path) -> None:
    """ONNX Runtime replaces some operators by unnamed parts of theirs."""
    graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, ["N", 4])], [], nodes=[], opset_imports={"": 18}, name="noisy")
    op = Builder(graph)
    hidden = op.MatMul(graph.inputs[0], np.eye(4, dtype=np.float32))
    graph.outputs.append(op.MatMul(op.Bernoulli(op.Sigmoid(hidden)), np.eye(4, dtype=np.float32)))
    onnx.save(ir.to_proto(ir.Model(graph, ir_version=9)), tmp_path / "noisy.onnx")
    found = preflight(bare_graph(load_graph(tmp_path / "noisy.onnx")))
    assert found
    assert all(obstacle.node for obstacle in found)
