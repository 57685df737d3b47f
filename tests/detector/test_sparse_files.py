"""Detectors of networks with many zeros: smaller files, the same numbers, and every command still works on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from typer.testing import CliRunner

from sparsense.cli import app
from sparsense.detector import calibrated, fit_head, parity_inputs, recalibrate, verify, write_detector
from sparsense.graph import forward_graph, load_graph
from sparsense.graph import sparse_form as module
from sparsense.graph.sparse import with_dense_weights
from sparsense.heads import HEADS
from sparsense.inspect import inspect_file, layer_costs
from sparsense.networks.network import Network
from sparsense.oracles import oracle_scores
from sparsense.parity import Parity
from sparsense.runtime import ExportedDetector
from sparsense.to_onnx import export_forward
from tiny_classifier import tiny_data, tiny_network

HEAD = "sensnorm"


def pruned_network(share):
    """Random weights of which a share is zero; wide enough for the zeros to count."""
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2), nn.Tanh(), nn.Conv2d(32, 32, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 4)
    ).eval()
    for layer in (module[0], module[2]):
        weight = layer.weight.data
        weight.masked_fill_(torch.rand_like(weight) < share, 0).div_((1 - share) ** 0.5)
    return Network(module, tiny_network().preprocessing, (3, 8, 8), source="wide")


def write(path, share):
    network = pruned_network(share)
    graph = forward_graph(load_graph(export_forward(network)), network.preprocessing)
    scored = fit_head(graph, HEADS[HEAD](), tiny_data("fit", 60, seed=0), preprocessing=network.preprocessing)
    held_out = tiny_data("calibration", 99, seed=2).inputs
    inputs = parity_inputs(held_out)
    closed, calibration = calibrated(scored, scored.scores(held_out), 0.05)
    card = {"preprocessing": network.preprocessing.to_dict(), "calibration": calibration.to_dict(), "head": HEAD}
    write_detector(
        closed, path, card=card, parity=Parity(inputs, oracle_scores(scored, network, inputs), "torch", 1e-5)
    )
    return path


@pytest.fixture(scope="module")
def sparse(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("sparse") / "sparse.onnx", 0.95)


def stored(path):
    return onnx.load(path).graph.sparse_initializer


def dense_twin(path, folder):
    twin = with_dense_weights(onnx.load(path), "the model", maximum_bytes=2**24)
    onnx.save(twin, folder / "dense.onnx")
    return folder / "dense.onnx"


def test_a_file_is_sparse_where_that_makes_it_smaller(sparse, tmp_path):
    assert {"0.weight", "2.weight"} <= {entry.values.name for entry in stored(sparse)}
    assert sparse.stat().st_size < 0.95 * dense_twin(sparse, tmp_path).stat().st_size


def test_a_network_without_zeros_is_left_as_it_is():
    content = export_forward(pruned_network(0.0)).SerializeToString()
    assert module.smaller_form(content, {}, "a.onnx") == (content, "")


def test_zeros_that_lost_their_plus_are_zeros_too():
    network = pruned_network(0.95)
    with torch.no_grad():
        network.module[2].weight.mul_(-1)  # as a batch norm with a negative scale does when it is folded
    content = export_forward(network).SerializeToString()
    some = {"input": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    found, _ = module.smaller_form(content, some, "a.onnx")
    assert len(found) < 0.4 * len(content)


def test_it_gives_the_same_numbers_as_its_dense_twin(sparse, tmp_path):
    inputs = tiny_data("test", 40, seed=5).inputs
    one, other = (ExportedDetector(path)(inputs) for path in (sparse, dense_twin(sparse, tmp_path)))
    for name in ("score", "p_value", "is_anomaly", "output"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()


def test_it_verifies_and_is_inspected_like_its_dense_twin(sparse, tmp_path):
    assert all(row["agrees"] for row in verify(sparse))
    twin = dense_twin(sparse, tmp_path)
    ours, theirs = inspect_file(sparse), inspect_file(twin)
    assert (ours.parameters, ours.inputs, ours.operators) == (theirs.parameters, theirs.inputs, theirs.operators)
    assert layer_costs(sparse) == layer_costs(twin)
    assert all(row.multiply_adds for row in layer_costs(sparse))
    result = CliRunner().invoke(app, ["inspect", str(sparse), "--cost"])
    assert result.exit_code == 0
    assert f"{ours.parameters:,} parameters" in result.output


def test_another_threshold_leaves_it_sparse_and_its_weights_alone(sparse, tmp_path):
    output = tmp_path / "again.onnx"
    recalibrate(sparse, tiny_data("calibration", 199, seed=7).inputs[None], rate=0.02, output=output)
    assert [entry.values.name for entry in stored(output)] == [entry.values.name for entry in stored(sparse)]
    for one, other in zip(stored(output), stored(sparse), strict=True):
        assert numpy_helper.to_array(one.values).tobytes() == numpy_helper.to_array(other.values).tobytes()
    inputs = tiny_data("test", 40, seed=5).inputs
    assert ExportedDetector(output).threshold != ExportedDetector(sparse).threshold
    np.testing.assert_array_equal(ExportedDetector(output)(inputs).score, ExportedDetector(sparse)(inputs).score)
    assert all(row["agrees"] for row in verify(output))
    recalibrate(output, rate=0.1)  # from what the file remembers
    assert ExportedDetector(output).card["calibration"]["rate"] == 0.1


def test_a_runtime_that_computes_something_else_gets_a_dense_file(monkeypatch, tmp_path):
    def other_weights(model):
        changed = module_with_sparse(model)
        for entry in changed.graph.sparse_initializer:
            values = numpy_helper.to_array(entry.values) * 2
            entry.values.CopyFrom(numpy_helper.from_array(values, entry.values.name))
        return changed

    module_with_sparse = module.with_sparse_weights
    monkeypatch.setattr(module, "with_sparse_weights", other_weights)
    path = write(tmp_path / "d.onnx", 0.95)
    assert not stored(path)
    assert all(row["agrees"] for row in verify(path))


def test_a_runtime_that_refuses_gets_a_dense_file_and_the_reason_is_told(monkeypatch):
    def refusing(model):
        changed = module_with_sparse(model)
        del changed.graph.node[:]
        return changed

    module_with_sparse = module.with_sparse_weights
    monkeypatch.setattr(module, "with_sparse_weights", refusing)
    content = export_forward(pruned_network(0.95)).SerializeToString()
    found, said = module.smaller_form(content, {"input": np.zeros((1, 3, 8, 8), np.float32)}, "a.onnx")
    assert found == content
    assert said.startswith("a.onnx is dense: ONNX Runtime")
