"""Files from strangers: what is read, what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsense.errors import GraphError, UnsafeFileError
from sparsense.graph.load import MINIMUM_OPSET, load_graph
from sparsense.graph.run import Session

WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2)


def mlp(opset: int = 20, **extra: object) -> onnx.ModelProto:
    """y = x W, written by hand."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10, **extra)


def external(folder: Path, location: str) -> Path:
    """The same, with its weight in another file."""
    model = mlp()
    tensor = model.graph.initializer[0]
    content = bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", str(len(content)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (folder / "weights.bin").write_bytes(content)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def product(model: ir.Model) -> np.ndarray:
    return Session(model)(np.eye(3, dtype=np.float32))[0]


def test_path_bytes_and_model_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(mlp().SerializeToString())
    for source in (path, str(path), path.read_bytes(), mlp()):
        np.testing.assert_array_equal(product(load_graph(source)), WEIGHT)


def test_round_trip() -> None:
    again = load_graph(ir.to_proto(load_graph(mlp())))
    np.testing.assert_array_equal(product(again), WEIGHT)


def test_old_opset_is_raised() -> None:
    model = load_graph(mlp(opset=11))
    assert model.opset_imports[""] >= MINIMUM_OPSET
    np.testing.assert_array_equal(product(model), WEIGHT)


def test_reductions_of_an_old_opset_get_their_axes_as_input() -> None:
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)],
        "old",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    )
    model = load_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
    (node,) = [node for node in model.graph if node.op_type == "ReduceMean"]
    assert len(node.inputs) == 2
    np.testing.assert_allclose(Session(model)(np.asarray([[1, 2, 6]], np.float32))[0], [3])


def test_functions_are_inlined() -> None:
    double = helper.make_function(
        "local", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 20)]
    )
    model = mlp(functions=[double])
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[0].output[0] = "z"
    model.graph.node.append(helper.make_node("Double", ["z"], ["y"], domain="local"))
    loaded = load_graph(model)
    assert {node.op_type for node in loaded.graph} == {"MatMul", "Add"}
    np.testing.assert_array_equal(product(loaded), 2 * WEIGHT)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"expected a file, found nothing at .*nowhere.onnx"):
        load_graph(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize("content", [b"\xff\xfe not a model at all", b"PK\x03\x04" + b"\x00" * 64])
def test_garbage(content: bytes) -> None:
    with pytest.raises(GraphError, match="expected an ONNX model"):
        load_graph(content)


def test_an_empty_file() -> None:
    with pytest.raises(GraphError, match="expected an ONNX model with a graph of nodes, found none"):
        load_graph(b"")


def test_a_cycle() -> None:
    model = mlp()
    model.graph.node.insert(0, helper.make_node("Add", ["x", "b"], ["a"]))
    model.graph.node.insert(1, helper.make_node("Neg", ["a"], ["b"]))
    with pytest.raises(GraphError, match="expected a valid ONNX model, found"):
        load_graph(model)


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(mlp().SerializeToString())
    with pytest.raises(UnsafeFileError, match="expected at most 10 bytes"):
        load_graph(path, maximum_bytes=10)


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    np.testing.assert_array_equal(product(load_graph(external(tmp_path, "weights.bin"))), WEIGHT)


def test_external_data_needs_the_path(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"tensor 'w' lies in 'weights.bin'; give the path of the model"):
        load_graph(external(tmp_path, "weights.bin").read_bytes())


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../weights.bin"])
def test_external_data_outside_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "inner").mkdir()
    with pytest.raises(UnsafeFileError, match=r"tensor 'w' points outside the model's folder"):
        load_graph(external(tmp_path / "inner", location))


def test_external_data_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret").write_bytes(b"x" * 24)
    path = external(tmp_path / "inner", "linked.bin")
    (tmp_path / "inner" / "linked.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeFileError, match="points outside the model's folder"):
        load_graph(path)


def test_missing_external_data(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"external data file 'gone.bin' of tensor 'w' is missing"):
        load_graph(external(tmp_path, "gone.bin"))


def test_external_data_over_the_limit(tmp_path: Path) -> None:
    path = external(tmp_path, "weights.bin")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[1].value = "1000"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeFileError, match="its external data exceeds 200 bytes"):
        load_graph(path, maximum_bytes=200)
