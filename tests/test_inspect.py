from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsense.errors import GraphError
from sparsense.inspect import inspect_file, layer_costs
from tiny_detectors import CARD, write_detector

FREE = ["N", 3, 8, 8]


def write_network(path: Path, shape: list[int | str] = FREE) -> Path:
    """Conv 3 -> 8 stride 2, ConvTranspose 8 -> 4, depthwise Conv, Gemm 256 -> 5, MatMul 5 -> 2."""
    sizes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 4, 2, 2), "w3": (4, 1, 3, 3), "w4": (5, 256), "w5": (5, 2)}
    node = helper.make_node
    nodes = [
        node("Conv", ["input", "w1", "b1"], ["a"], "first", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"]),
        node("ConvTranspose", ["b", "w2"], ["c"], "up", strides=[2, 2]),
        node("Conv", ["c", "w3"], ["d"], group=4, pads=[1, 1, 1, 1]),
        node("Flatten", ["d"], ["e"]),
        node("Gemm", ["e", "w4"], ["f"], "full", transB=1),
        node("MatMul", ["f", "w5"], ["output"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.zeros(size, np.float32), name) for name, size in sizes.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_what_a_network_is(tmp_path: Path) -> None:
    found = inspect_file(write_network(tmp_path / "n.onnx"))
    assert found.size == (tmp_path / "n.onnx").stat().st_size
    assert found.opset == 18
    assert [(v.name, v.dtype, v.shape) for v in found.inputs] == [("input", "float", ("N", 3, 8, 8))]
    assert [(v.name, v.dtype, v.shape) for v in found.outputs] == [("output", "float", ("N", 2))]
    assert found.operators == {"Conv": 2, "Relu": 1, "ConvTranspose": 1, "Flatten": 1, "Gemm": 1, "MatMul": 1}
    assert found.parameters == 8 * 27 + 8 + 8 * 16 + 4 * 9 + 5 * 256 + 10
    assert found.card is None


def test_what_a_detector_is(tmp_path: Path) -> None:
    found = inspect_file(write_detector(tmp_path / "d.onnx"))
    assert found.card == CARD
    assert [(v.name, v.dtype) for v in found.inputs] == [("input", "uint8")]  # the threshold has a default
    assert [(v.name, v.dtype) for v in found.outputs] == [
        ("score", "float"), ("p_value", "float"), ("is_anomaly", "bool"), ("output", "float"),
    ]  # fmt: skip


def test_costs_by_hand(tmp_path: Path) -> None:
    """Outputs times the size of a filter; for transposed convolutions, inputs times the size of a filter."""
    costs = layer_costs(write_network(tmp_path / "n.onnx"))
    assert [(c.name, c.operator, c.output_shape, c.parameters, c.multiply_adds) for c in costs] == [
        ("first", "Conv", (1, 8, 4, 4), 8 * 27 + 8, 8 * 4 * 4 * 27),
        ("up", "ConvTranspose", (1, 4, 8, 8), 8 * 16, 8 * 4 * 4 * 4 * 4),
        ("d", "Conv", (1, 4, 8, 8), 4 * 9, 4 * 8 * 8 * 9),
        ("full", "Gemm", (1, 5), 5 * 256, 256 * 5),
        ("last", "MatMul", (1, 2), 10, 10),
    ]


def test_costs_agree_with_a_count_of_the_products(tmp_path: Path) -> None:
    """Another way to count: every product of ones adds one to the sum of the output."""
    model = onnx.load(write_network(tmp_path / "n.onnx"))
    conv = next(node for node in model.graph.node if node.name == "up")
    from onnx.reference import ReferenceEvaluator

    single = helper.make_model(
        helper.make_graph(
            [conv],
            "one",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in conv.input],
            [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
    )
    (output,) = ReferenceEvaluator(single).run(
        None, {"b": np.ones((1, 8, 4, 4), np.float32), "w2": np.ones((8, 4, 2, 2), np.float32)}
    )
    assert output.sum() == next(c.multiply_adds for c in layer_costs(tmp_path / "n.onnx") if c.name == "up")


def test_a_free_size_is_not_guessed(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["input", "w"], ["output"], "conv")]
    graph = helper.make_graph(
        nodes,
        "free",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 4, "H", "W"])],
        [numpy_helper.from_array(np.zeros((4, 3, 1, 1), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "f.onnx")
    (cost,) = layer_costs(tmp_path / "f.onnx")
    assert cost.multiply_adds is None
    assert cost.parameters == 12


def test_external_data_is_not_opened(tmp_path: Path) -> None:
    path = write_network(tmp_path / "n.onnx")
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    path.write_bytes(model.SerializeToString())
    assert inspect_file(path).parameters == 8 * 27 + 8 + 8 * 16 + 4 * 9 + 5 * 256 + 10


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x07" * 9])
def test_something_else_than_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(GraphError, match=r"inspecting .*x\.onnx: not an ONNX file"):
        inspect_file(tmp_path / "x.onnx")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="there is no such file"):
        inspect_file(tmp_path / "x.onnx")


def test_a_damaged_card(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="the card in the file is damaged"):
        inspect_file(write_detector(tmp_path / "d.onnx", card="{"))


def test_shapes_that_contradict_each_other_are_not_counted(tmp_path: Path) -> None:
    costs = layer_costs(write_network(tmp_path / "n.onnx", ["N", 3, 9, 9]))
    found = {cost.name: cost.multiply_adds for cost in costs}
    assert found["first"] == 8 * 5 * 5 * 27
    assert found["full"] is None
