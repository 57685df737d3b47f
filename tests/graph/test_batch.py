"""Files with a fixed batch axis: made free, compared with what they said before, or refused with the node's name."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import GraphError
from sparsense.graph import Session, forward_graph, load_graph
from sparsense.graph.batch import in_batches

PLAIN = Preprocessing("NCHW", "float32", scale=1.0)
RANDOM = np.random.default_rng(0)
node = helper.make_node


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def model(batch: int, *nodes: NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    """x [batch, 4, 2, 2] -> y [batch, ...], as an exporter that traces one input writes it."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4, 2, 2])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", [given], [answer], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def freed_equals_given(proto: onnx.ModelProto, batch: int) -> None:
    """Seven samples at once, against the file itself in its own batches."""
    given, network = load_graph(proto), forward_graph(load_graph(proto), PLAIN)
    inputs = np.random.default_rng(3).normal(size=(7, 4, 2, 2)).astype(np.float32)
    expected = in_batches(Session(given), inputs, batch)
    (found,) = Session(network.model, [network.output])(inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert network.output.shape is not None
    assert network.output.shape[0] == ir.SymbolicDim("N")


BATCHES = pytest.mark.parametrize("batch", [1, 2, 8])


@BATCHES
def test_nothing_to_rewrite(batch: int) -> None:
    freed_equals_given(
        model(batch, node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "w"], ["y"]), w=weights(16, 3)), batch
    )


@BATCHES
def test_a_flattening_reshape(batch: int) -> None:
    nodes = node("Reshape", ["x", "s"], ["f"]), node("MatMul", ["f", "w"], ["y"])
    freed_equals_given(model(batch, *nodes, s=np.asarray([batch, 16]), w=weights(16, 3)), batch)


@BATCHES
def test_a_reshape_with_its_own_free_axis(batch: int) -> None:
    nodes = node("Reshape", ["x", "s"], ["f"]), node("MatMul", ["f", "w"], ["y"])
    freed_equals_given(model(batch, *nodes, s=np.asarray([batch, -1]), w=weights(16, 3)), batch)


@BATCHES
def test_a_channel_shuffle(batch: int) -> None:
    nodes = (
        node("Reshape", ["x", "s1"], ["a"]),
        node("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["b", "s2"], ["c"]),
        node("Conv", ["c", "w"], ["y"]),
    )
    shapes = {"s1": np.asarray([batch, 2, 2, 2, 2]), "s2": np.asarray([batch, 4, 2, 2])}
    freed_equals_given(model(batch, *nodes, w=weights(3, 4, 1, 1), **shapes), batch)


@BATCHES
def test_time_major_attention(batch: int) -> None:
    """[N, T, E] -> [T, N, E] -> heads beside the samples [T, N h, d] -> scores -> back: all sizes baked in."""
    nodes = (
        node("Reshape", ["x", "tokens"], ["t"]),
        node("Transpose", ["t"], ["m"], perm=[1, 0, 2]),
        node("Reshape", ["m", "flat"], ["rows"]),
        node("Gemm", ["rows", "w", "b"], ["q"]),
        node("Reshape", ["q", "heads"], ["h"]),
        node("Transpose", ["h"], ["left"], perm=[1, 0, 2]),
        node("Transpose", ["h"], ["right"], perm=[1, 2, 0]),
        node("MatMul", ["left", "right"], ["scores"]),
        node("Softmax", ["scores"], ["share"], axis=-1),
        node("MatMul", ["share", "left"], ["mixed"]),
        node("Transpose", ["mixed"], ["back"], perm=[1, 0, 2]),
        node("Reshape", ["back", "major"], ["joined"]),
        node("ReduceMean", ["joined", "first"], ["y"], keepdims=0),
    )
    shapes = {
        "tokens": [batch, 4, 4], "flat": [4 * batch, 4], "heads": [4, batch * 2, 2], "major": [4, batch, 4],
        "first": [0],
    }  # fmt: skip
    constants = {name: np.asarray(shape) for name, shape in shapes.items()}
    freed_equals_given(model(batch, *nodes, w=weights(4, 4), b=weights(4), **constants), batch)


@BATCHES
def test_a_class_token_repeated_for_the_batch(batch: int) -> None:
    nodes = (
        node("Reshape", ["x", "s"], ["t"]),
        node("Concat", ["token", "t"], ["all"], axis=1),
        node("Tanh", ["all"], ["h"]),
        node("ReduceMax", ["h", "one"], ["y"], keepdims=0),
    )
    token = np.repeat(weights(1, 1, 4), batch, 0)
    freed_equals_given(model(batch, *nodes, token=token, s=np.asarray([batch, 4, 4]), one=np.asarray([1])), batch)


@BATCHES
def test_an_expand_and_a_resize_to_sizes(batch: int) -> None:
    nodes = (
        node("Resize", ["x", "", "", "sizes"], ["big"], mode="nearest"),
        node("ReduceMean", ["big", "sides"], ["mean"], keepdims=1),
        node("Expand", ["mean", "shape"], ["wide"]),
        node("Sub", ["big", "wide"], ["d"]),
        node("Flatten", ["d"], ["y"]),
    )
    constants = {"sizes": [batch, 4, 4, 4], "sides": [2, 3], "shape": [batch, 4, 4, 4]}
    freed_equals_given(model(batch, *nodes, **{k: np.asarray(v) for k, v in constants.items()}), batch)


@BATCHES
def test_samples_that_mix_are_refused(batch: int) -> None:
    """The mean over the batch: a batch of one hides it, and batch 2 tells."""
    nodes = (
        node("ReduceMean", ["x", "zero"], ["m"], "over_samples", keepdims=1),
        node("Sub", ["x", "m"], ["d"]),
        node("Flatten", ["d"], ["y"]),
    )
    if batch == 1:
        nodes = (
            node("ReduceMean", ["x", "zero"], ["m"], "over_samples", keepdims=1),
            node("Add", ["x", "m"], ["d"]),
            node("Flatten", ["d"], ["y"]),
        )
    with pytest.raises(GraphError, match=rf"input 'x' free, which the file fixes at {batch}: .*at batch"):
        forward_graph(load_graph(model(batch, *nodes, zero=np.asarray([0]))), PLAIN)


def test_the_node_that_holds_the_batch_is_named() -> None:
    """A Squeeze of the samples' axis cannot be rewritten."""
    nodes = (
        node("Squeeze", ["x", "zero"], ["s"], "drops_the_batch"),
        node("Flatten", ["s"], ["f"], axis=0),
        node("MatMul", ["f", "w"], ["y"]),
    )
    message = "nodes that hold the batch size: .*; export the model with a free (dynamic) batch axis"
    with pytest.raises(GraphError, match=re.escape("making the batch axis of input 'x' free")) as error:
        forward_graph(load_graph(model(1, *nodes, zero=np.asarray([0]), w=weights(16, 3))), PLAIN)
    assert "drops_the_batch" in str(error.value)
    assert re.search(message.replace("(", r"\(").replace(")", r"\)"), str(error.value))


def test_different_rows_for_each_sample_of_a_batch_are_refused() -> None:
    nodes = node("Reshape", ["x", "s"], ["t"]), node("Concat", ["rows", "t"], ["y"], axis=1)
    with pytest.raises(GraphError, match="export the model with a free"):
        forward_graph(load_graph(model(2, *nodes, rows=weights(2, 3), s=np.asarray([2, 16]))), PLAIN)
