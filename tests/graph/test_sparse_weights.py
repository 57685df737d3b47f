"""Sparse initializers: the same model, smaller, in ONNX Runtime and after reading it again."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sparsense.graph.sparse import with_dense_weights, with_sparse_weights


def convolution(weight: NDArray[np.float32]) -> onnx.ModelProto:
    o, i = weight.shape[:2]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", i, 4, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", o, 4, 4])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.zeros(o, np.float32), "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def weight(zeros: float, seed: int = 0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    values = random.standard_normal((16, 8, 3, 3)).astype(np.float32)
    return np.where(random.random(values.shape) < zeros, np.float32(0), values)


@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.75, 0.95])
def test_what_becomes_smaller_is_stored_sparse_and_runs_the_same(zeros: float) -> None:
    dense = convolution(weight(zeros))
    sparse = with_sparse_weights(dense)
    assert [len(sparse.graph.sparse_initializer), len(sparse.graph.initializer)] == ([1, 1] if zeros > 0.7 else [0, 2])
    assert len(sparse.SerializeToString()) <= len(dense.SerializeToString())
    onnx.checker.check_model(sparse)
    feed = {"x": np.random.default_rng(1).standard_normal((2, 8, 4, 4)).astype(np.float32)}
    left, right = (
        ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for model in (dense, sparse)
    )
    np.testing.assert_array_equal(left, right)


@given(st.floats(0, 1), st.integers(0, 50))
def test_expanding_gives_the_weights_back_bit_for_bit(zeros: float, seed: int) -> None:
    model = convolution(weight(zeros, seed))
    again = with_dense_weights(with_sparse_weights(model), "the model", maximum_bytes=2**20)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in again.graph.initializer}
    np.testing.assert_array_equal(weights["w"].view(np.int32), weight(zeros, seed).view(np.int32))


def test_a_negative_zero_stays_negative() -> None:
    values = np.zeros((16, 8, 3, 3), np.float32)
    values[0, 0, 0] = [-0.0, 1.0, np.nan]
    again = with_dense_weights(with_sparse_weights(convolution(values)), "the model", maximum_bytes=2**20)
    found = next(numpy_helper.to_array(tensor) for tensor in again.graph.initializer if tensor.name == "w")
    np.testing.assert_array_equal(found.view(np.int32), values.view(np.int32))


def test_indices_by_axis_are_read_as_well() -> None:
    values = weight(0.9)
    model = convolution(values)
    del model.graph.initializer[0]
    places = np.argwhere(values)
    entry = helper.make_sparse_tensor(
        numpy_helper.from_array(values[tuple(places.T)], "w"),
        numpy_helper.from_array(places.astype(np.int64)),
        values.shape,
    )
    model.graph.sparse_initializer.append(entry)
    again = with_dense_weights(model, "the model", maximum_bytes=2**20)
    np.testing.assert_array_equal(numpy_helper.to_array(again.graph.initializer[-1]), values)
