"""What a graph computes, counted by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from sparsense.detector.work import PER_PRODUCT, PER_VALUE, nanoseconds


def test_work_is_products_and_values() -> None:
    """Of one sample: 6 x 8 x 8 outputs of 27 products, and so on."""
    node, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1] * 4), node("Flatten", ["c"], ["f"]), node("MatMul", ["f", "v"], ["y"])
    ]  # fmt: skip
    weights = {"w": np.zeros((6, 3, 3, 3), np.float32), "v": np.zeros((384, 5), np.float32)}
    graph = onnx.helper.make_graph(
        nodes, "g", [tensor("x", 1, ["n", 3, 8, 8])], [tensor("y", 1, ["n", 5])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    products, values = 384 * 27 + 5 * 384, 384 + 384 + 5
    found = nanoseconds(ir.from_proto(onnx.shape_inference.infer_shapes(model)))
    assert found == PER_PRODUCT * products + PER_VALUE * values
