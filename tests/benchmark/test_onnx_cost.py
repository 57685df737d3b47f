import gzip

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sparsense.benchmark import onnx_cost
from sparsense.benchmark.onnx_cost import file_bytes, load_time_ms, onnx_call, peak_memory
from sparsense.errors import GraphError, InputError


def model(*, batch="N", dtype=TensorProto.FLOAT, width=4, weights=None):
    """y = cast(x) @ w, plus an optional threshold that has a default."""
    weights = np.zeros((width, 2), np.float32) if weights is None else weights
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Add", ["m", "threshold"], ["y"]),
        helper.make_node("Identity", ["f"], ["seen"]),
    ]
    threshold = helper.make_tensor("threshold", TensorProto.FLOAT, [], [1.0])
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("x", dtype, [batch, width]),
            helper.make_tensor_value_info("threshold", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2]),
            helper.make_tensor_value_info("seen", TensorProto.FLOAT, [batch, width]),
        ],
        [onnx.numpy_helper.from_array(weights, "w"), threshold],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return built.SerializeToString()


def test_a_call_runs_the_model_on_a_batch():
    weights = np.arange(8, dtype=np.float32).reshape(4, 2)
    y, seen = onnx_call(model(weights=weights), batch=5)()
    assert y.shape == (5, 2)
    np.testing.assert_allclose(y, seen @ weights + 1, rtol=1e-5)
    assert abs(seen.std() - 1) < 0.5


def test_chosen_outputs_and_files(tmp_path):
    path = tmp_path / "tiny.onnx"
    path.write_bytes(model())
    assert len(onnx_call(path, outputs=["y"])()) == 1


def test_images_cover_their_range():
    (_, seen) = onnx_call(model(dtype=TensorProto.UINT8, width=500), batch=2)()
    assert seen.min() < 10
    assert seen.max() > 245


def test_integers_are_zero():
    assert not onnx_call(model(dtype=TensorProto.INT64))()[1].any()


def test_a_fixed_batch_is_kept():
    assert onnx_call(model(batch=3), batch=3)()[0].shape == (3, 2)
    with pytest.raises(GraphError, match="fixed batch 3; asked for 1"):
        onnx_call(model(batch=3))


def test_what_cannot_be_made_up():
    with pytest.raises(GraphError, match=r"'x' of type tensor\(bool\)"):
        onnx_call(model(dtype=TensorProto.BOOL))
    with pytest.raises(InputError, match="at least 1; got 0"):
        onnx_call(model(), batch=0)
    with pytest.raises(InputError, match=r"no ONNX file gone\.onnx"):
        onnx_call("gone.onnx")


def test_threads_are_fixed(monkeypatch):
    seen = []

    class Session:
        def __init__(self, _, options, providers):
            seen.append((options.intra_op_num_threads, options.inter_op_num_threads, providers))

        def get_inputs(self):
            return []

    monkeypatch.setattr(onnx_cost.ort, "InferenceSession", Session)
    onnx_call(b"any", threads=3)
    assert seen == [(3, 1, ["CPUExecutionProvider"])]


def test_bytes_on_disk_and_under_gzip(tmp_path):
    zeros = model(width=5000)
    dense = model(width=5000, weights=np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32))
    assert file_bytes(zeros).raw == len(zeros) == file_bytes(dense).raw
    assert file_bytes(zeros).gzip < 1000 < 20_000 < file_bytes(dense).gzip
    path = tmp_path / "a.onnx"
    path.write_bytes(dense)
    assert file_bytes(path) == (len(dense), len(gzip.compress(dense, 6, mtime=0)))


def test_load_time_is_positive():
    assert load_time_ms(model(), repeats=2) > 0


def test_peak_memory_grows_with_the_model():
    large, small, last = peak_memory([model(width=2_000_000), model(), model()])
    if small is None:
        pytest.skip("this system does not tell the peak memory of a process")
    assert large - small > 2_000_000 * 2 * 4
    assert abs(last - small) < 2_000_000  # each in a process of its own: the large one leaves no trace


def test_peak_memory_grows_with_the_batch(tmp_path):
    (tmp_path / "a.onnx").write_bytes(model(width=50_000))
    (few,), (many,) = (peak_memory([tmp_path / "a.onnx"], batch=batch) for batch in (1, 200))
    if few is None:
        pytest.skip("this system does not tell the peak memory of a process")
    assert many - few > 0.9 * 199 * 50_000 * 4


def test_a_model_that_fails_says_why_in_the_parent():
    with pytest.raises(GraphError, match=r"1 model\(s\) at batch 1 failed: .*fixed batch 3"):
        peak_memory([model(batch=3)])
