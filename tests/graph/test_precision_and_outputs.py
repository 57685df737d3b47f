"""Half precision, double precision, and which value of a file is its answer."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import GraphError
from sparsense.graph import Session, forward_graph, load_graph
from sparsense.graph.original import HALF_TOLERANCE, Original
from sparsense.graph.outputs import choose_output, logits_before
from sparsense.graph.precision import to_single

ROWS = Preprocessing("ND", "float32", scale=1.0)
WEIGHT = np.random.default_rng(0).normal(size=(3, 2))
INPUTS = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
KINDS = {np.float16: TensorProto.FLOAT16, np.float64: TensorProto.DOUBLE, ml_dtypes.bfloat16: TensorProto.BFLOAT16}
node = helper.make_node


def wrap(
    nodes: list[NodeProto], kind: int, outputs: list[onnx.ValueInfoProto], **constants: np.ndarray
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    given = helper.make_tensor_value_info("x", kind, ["N", 3])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(
        helper.make_graph(nodes, "g", [given], outputs, tensors), opset_imports=opsets, ir_version=9
    )


def in_type(dtype: type) -> onnx.ModelProto:
    """y = tanh(x w), all of it in one type, a cast to it and a constant of it in a node included."""
    half = numpy_helper.from_array(np.asarray(0.5).astype(dtype), "half")
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Constant", [], ["half"], value=half),
        node("Mul", ["a", "half"], ["b"]),
        node("Cast", ["b"], ["c"], to=KINDS[dtype]),
        node("Tanh", ["c"], ["y"]),
    ]
    return wrap(
        nodes, KINDS[dtype], [helper.make_tensor_value_info("y", KINDS[dtype], ["N", 2])], w=WEIGHT.astype(dtype)
    )


@pytest.mark.parametrize("dtype", KINDS)
def test_other_precisions_become_single(dtype: type) -> None:
    """Exactly the stored numbers, computed in float32."""
    network = forward_graph(load_graph(in_type(dtype)), ROWS)
    (found,) = Session(network.model, [network.output])(INPUTS)
    assert found.dtype == np.float32
    expected = np.tanh(INPUTS.astype(np.float64) @ WEIGHT.astype(dtype).astype(np.float64) * 0.5)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_casts_around_a_half_precision_layer_hide_no_features() -> None:
    nodes = [node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), node("MatMul", ["h", "w"], ["a"])]
    nodes.append(node("Cast", ["a"], ["y"], to=TensorProto.FLOAT))
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    network = forward_graph(load_graph(wrap(nodes, TensorProto.FLOAT, [answer], w=WEIGHT.astype(np.float16))), ROWS)
    (found,) = Session(network.model, [network.features])(INPUTS)
    np.testing.assert_array_equal(found, INPUTS)
    assert network.last_linear.op_type in ("MatMul", "Gemm")


def test_a_cast_of_other_numbers_hides_them() -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Cast", ["a"], ["i"], to=TensorProto.INT64)]
    nodes.append(node("Cast", ["i"], ["y"], to=TensorProto.FLOAT))
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    network = forward_graph(load_graph(wrap(nodes, TensorProto.FLOAT, [answer], w=WEIGHT.astype(np.float32))), ROWS)
    with pytest.raises(GraphError, match=r"found node '.*' \(Cast\)"):
        _ = network.features


def test_the_original_keeps_its_own_precision(tmp_path: Path) -> None:
    onnx.save(in_type(np.float16), tmp_path / "half.onnx")
    original = Original(tmp_path / "half.onnx")
    assert original.tolerance == HALF_TOLERANCE
    expected = np.tanh(INPUTS @ WEIGHT.astype(np.float16).astype(np.float32) * 0.5)
    error = np.abs(original(INPUTS) - expected).max()
    assert 1e-5 < error < 1e-2


def test_a_float_file_is_left_alone() -> None:
    proto = wrap([node("Neg", ["x"], ["y"])], TensorProto.FLOAT, [helper.make_tensor_value_info("y", 1, ["N", 3])])
    assert to_single(proto) is proto


def classifier() -> onnx.ModelProto:
    """Labels first, then probabilities, as converters of other libraries write them."""
    nodes = [
        node("MatMul", ["x", "w"], ["scores"]),
        node("Softmax", ["scores"], ["shares"], "squash"),
        node("ArgMax", ["shares"], ["label"], axis=1, keepdims=0),
        node("ZipMap", ["shares"], ["table"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    table = onnx.ValueInfoProto(name="table")
    table.type.sequence_type.elem_type.map_type.key_type = TensorProto.INT64
    table.type.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["N"])
    shares = helper.make_tensor_value_info("shares", TensorProto.FLOAT, ["N", 2])
    return wrap(nodes, TensorProto.FLOAT, [label, table, shares], w=WEIGHT.astype(np.float32))


def test_labels_first_lists_the_choices() -> None:
    with pytest.raises(
        GraphError,
        match=r"choosing the output of m.onnx: expected the first to be a floating-point tensor, found 'label', and it "
        r"holds int64 numbers; name one of: 'shares' \(an output\), 'scores' \(what goes into Softmax\)",
    ):
        choose_output(load_graph(classifier()), what="m.onnx")


@pytest.mark.parametrize(
    ("name", "found"),
    [("table", "it holds no numbers of a known type, such as a table or list"), ("nothing", "no such value")],
)
def test_other_names_list_the_choices(name: str, found: str) -> None:
    with pytest.raises(
        GraphError, match=rf"expected '{name}' to be a floating-point tensor, found {found}; name one of"
    ):
        choose_output(load_graph(classifier()), name)


@pytest.mark.parametrize("name", ["shares", "scores"])
def test_a_named_output_is_the_only_one(name: str) -> None:
    model = choose_output(load_graph(classifier()), name)
    expected = INPUTS @ WEIGHT.astype(np.float32)
    if name == "shares":
        expected = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    np.testing.assert_allclose(Session(model)(INPUTS)[0], expected, rtol=1e-5)
    assert {step.op_type for step in model.graph} <= {"MatMul", "Softmax"}
    assert logits_before(model.graph.outputs[0]) == ("scores" if name == "shares" else None)
    np.testing.assert_allclose(Original(classifier(), name)(INPUTS), expected, rtol=1e-5)
