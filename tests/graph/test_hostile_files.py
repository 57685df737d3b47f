"""Damaged and hostile files: always one of our errors, never another exception, never a write elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import verify
from sparsense.detector.costs import network_cost
from sparsense.errors import GraphError, InputError, SparsenseError, UnsafeFileError
from sparsense.graph import forward_graph, load_graph, simplify
from sparsense.graph.outputs import choose_output
from sparsense.inspect import inspect_file, layer_costs
from sparsense.runtime import ExportedDetector
from test_inspect import write_network
from tiny_detectors import write_detector

PLAIN = Preprocessing("NCHW", "float32", scale=1.0)


def damaged(good: bytes, random: np.random.Generator, count: int) -> list[bytes]:
    """Truncated, random, and with single bits flipped; most of them the last, which come furthest."""
    places = np.flatnonzero(np.frombuffer(good, np.uint8))  # the structure, as the weights are zeros
    found = [good[: random.integers(len(good))] for _ in range(count // 8)]
    found += [random.bytes(random.integers(1, 300)) for _ in range(count // 8)]
    for _ in range(count - len(found)):
        content = bytearray(good)
        content[random.choice(places)] ^= 1 << int(random.integers(8))
        found.append(bytes(content))
    return found


def look_at_network(path: Path) -> None:
    forward_graph(choose_output(load_graph(path)), PLAIN)


def inspect(path: Path) -> None:
    inspect_file(path)
    layer_costs(path)


def score(path: Path) -> None:
    ExportedDetector(path)(np.zeros((3, 4, 5, 3), np.uint8))


READERS = {
    "attach": (write_network, look_at_network),
    "inspect": (write_network, inspect),
    "cost": (write_network, network_cost),
    "score": (write_detector, score),
    "verify": (write_detector, verify),
}


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_typed_errors(reader: str, tmp_path: Path) -> None:
    write, read = READERS[reader]
    good, path, outcomes = write(tmp_path / "good.onnx").read_bytes(), tmp_path / "damaged.onnx", Counter[str]()
    for content in damaged(good, np.random.default_rng(len(reader)), 300):
        path.write_bytes(content)
        try:
            read(path)
        except SparsenseError:
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
    assert outcomes["refused"] > 100
    assert sorted(file.name for file in tmp_path.iterdir()) == ["damaged.onnx", "good.onnx"]


def chain(*nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    """x -> nodes -> y, with constants."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy"]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "chain", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_small_file_cannot_ask_for_all_memory() -> None:
    """2^40 ones, folded into a constant when the model is loaded."""
    model = chain(
        helper.make_node("ConstantOfShape", ["sizes"], ["ones"]),
        helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
        sizes=np.asarray([2**20, 2**20]),
    )
    with pytest.raises(UnsafeFileError, match=r"at most 536,870,912 numbers, found that 'ones' has 1,099,511,627,776"):
        simplify(load_graph(model))


def sparse_weight(places: list[int], shape: list[int]) -> onnx.ModelProto:
    model = chain(helper.make_node("MatMul", ["x", "w"], ["y"]))
    values = numpy_helper.from_array(np.ones(len(places), np.float32), "w")
    indices = numpy_helper.from_array(np.asarray(places, np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, shape))
    return model


def test_sparse_weights_are_expanded() -> None:
    weight = load_graph(sparse_weight([0, 4], [3, 3])).graph.initializers["w"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy(), np.diag([1.0, 1.0, 0.0]))


@pytest.mark.parametrize("places", [[0, 9], [-1, 4]])
def test_sparse_weights_with_indices_outside_are_named(places: list[int]) -> None:
    with pytest.raises(GraphError, match=r"indices of the sparse weight 'w' do not fit its shape \[3, 3\]"):
        load_graph(sparse_weight(places, [3, 3]))


def test_sparse_weights_cannot_ask_for_all_memory() -> None:
    with pytest.raises(UnsafeFileError, match="its sparse weights would take up to"):
        load_graph(sparse_weight([0, 4], [2**20, 2**20]))


def test_an_unknown_domain_is_named() -> None:
    model = chain(helper.make_node("Frobnicate", ["x"], ["y"], domain="somewhere"))
    model.opset_import.append(helper.make_opsetid("somewhere", 1))
    with pytest.raises(GraphError, match=r"expected a model it can run, found: .*somewhere.Frobnicate"):
        simplify(load_graph(model))


def test_no_default_domain() -> None:
    model = chain(helper.make_node("Neg", ["x"], ["y"]))
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("somewhere", 1))
    with pytest.raises(GraphError, match=r"found that it imports \['somewhere'\] alone"):
        load_graph(model)


def test_an_opset_of_the_future() -> None:
    model = chain(helper.make_node("Neg", ["x"], ["y"]))
    model.opset_import[0].version = 999
    with pytest.raises(GraphError, match=r"expected an opset of at most \d+, found 999; install"):
        load_graph(model)


def test_an_old_opset_without_a_way_up_is_refused() -> None:
    """Normalisation of every position on its own went out of the standard."""
    node = helper.make_node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y"], spatial=0, is_test=1)
    model = chain(node, s=np.ones(3, np.float32))
    model.opset_import[0].version = 6
    with pytest.raises(GraphError, match=r"opset 6 cannot be brought to 18 \(.*spatial.*\); export the model again"):
        load_graph(model)


def test_a_wrong_type_of_input_is_named() -> None:
    model = chain(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32
    with pytest.raises(GraphError, match=r"preparing input 'x': expected float32, found INT32"):
        forward_graph(load_graph(model), Preprocessing("ND", "float32", scale=1.0))


def test_a_weight_without_its_numbers_is_named() -> None:
    model = chain(helper.make_node("MatMul", ["x", "w"], ["y"]))
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 3]))
    with pytest.raises(GraphError, match=r"exactly one input, found 2 \('x' .*'w' \[3, 3\]\); store weights as init"):
        forward_graph(load_graph(model), Preprocessing("ND", "float32", scale=1.0))


def test_no_batch_axis_is_refused() -> None:
    model = chain(helper.make_node("Neg", ["x"], ["y"]))
    for value in (model.graph.input[0], model.graph.output[0]):
        del value.type.tensor_type.shape.dim[0]
    with pytest.raises(GraphError, match=r"layout ND expects rank 2, found shape \[3\]"):
        forward_graph(load_graph(model), Preprocessing("ND", "float32", scale=1.0))


def test_an_input_of_unknown_rank_is_refused() -> None:
    model = chain(helper.make_node("Neg", ["x"], ["y"]))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(GraphError, match="shape"):
        forward_graph(load_graph(model), Preprocessing("ND", "float32", scale=1.0))


def test_an_output_without_a_shape_gets_one() -> None:
    model = chain(helper.make_node("Neg", ["x"], ["y"]))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert [str(size) for size in load_graph(model).graph.outputs[0].shape or []] != []


def external(folder: Path, **entries: str) -> Path:
    """A model whose weight lies in weights.bin, described by these entries."""
    model = chain(helper.make_node("MatMul", ["x", "w"], ["y"]), w=np.eye(3, dtype=np.float32))
    tensor = model.graph.initializer[0]
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", **entries}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.parametrize(
    "entries", [{"length": "37"}, {"offset": "8"}, {"offset": "-1"}, {"length": "-4"}, {"offset": "100"}]
)
def test_external_data_that_is_not_all_there(tmp_path: Path, entries: dict[str, str]) -> None:
    with pytest.raises(GraphError):
        load_graph(external(tmp_path, **entries))


def test_external_data_with_a_size_that_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="found one that contradicts itself"):
        load_graph(external(tmp_path, length="many"))


def test_external_data_of_a_subgraph_outside_is_refused(tmp_path: Path) -> None:
    """A constant in a branch of an If is a tensor like any other."""
    outside = TensorProto(name="w", dims=[3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    entry = outside.external_data.add()
    entry.key, entry.value = "location", "../secret"
    result = helper.make_tensor_value_info("b", TensorProto.FLOAT, [3])
    branch = helper.make_graph([helper.make_node("Identity", ["w"], ["b"])], "branch", [], [result], [outside])
    choice = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    model = chain(choice, helper.make_node("Add", ["x", "z"], ["y"]), c=np.asarray(True))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsafeFileError, match=r"tensor 'w' points outside the model's folder, to '../secret'"):
        load_graph(tmp_path / "model.onnx")


def test_a_link_in_place_of_the_data_is_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (tmp_path / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(UnsafeFileError, match="refused: put the data file itself beside it"):
        load_graph(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(GraphError, match="expected a file"):
        load_graph(tmp_path / "pipe.onnx")
    with pytest.raises(InputError, match="is not a file"):
        ExportedDetector(tmp_path / "pipe.onnx")


def test_nothing_is_written_beside_the_model(tmp_path: Path) -> None:
    """In a folder that may not be written to, from a working directory that may not be written to either."""
    write_network(tmp_path / "n.onnx")
    program = (
        "import sys; from pathlib import Path; from sparsense.detector.costs import network_cost;"
        "print(len(network_cost(Path(sys.argv[1])).layers))"
    )
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    command = [sys.executable, "-c", program, str(tmp_path / "n.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.strip() == "5", done.stderr
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
