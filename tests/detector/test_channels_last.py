"""A file whose images have their channels last gives the detector of its twin that has them second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sparsense.data.dataset import Dataset
from sparsense.detector import attach_to_file
from sparsense.graph.channels import channels_first, channels_last
from sparsense.graph.load import load_graph
from sparsense.heads import make_head
from sparsense.networks.network import Network
from sparsense.runtime import ExportedDetector
from sparsense.to_onnx import export_forward
from tiny_autoencoder import tiny_autoencoder
from tiny_classifier import tiny_data, tiny_network, tiny_proto


def turned(proto: onnx.ModelProto, batch: str | int) -> onnx.ModelProto:
    """The same network for images [N, H, W, C], as converters from Keras write it."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    graph, (given,) = changed.graph, proto.graph.input
    channels, *sides = [dim.dim_value for dim in given.type.tensor_type.shape.dim[1:]]
    graph.input[0].CopyFrom(helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, *sides, channels]))
    graph.node.insert(0, helper.make_node("Transpose", ["images"], [given.name], perm=[0, 3, 1, 2]))
    answer = graph.output[0].name
    if len(proto.graph.output[0].type.tensor_type.shape.dim) == 4:
        graph.node.append(helper.make_node("Transpose", [answer], ["turned"], perm=[0, 2, 3, 1]))
        answer = "turned"
        shape = [batch, *sides, channels]
        graph.output[0].CopyFrom(helper.make_tensor_value_info(answer, TensorProto.FLOAT, shape))
    return changed


def attached(folder: Path, proto: onnx.ModelProto, network: Network, head: str) -> ExportedDetector:
    folder.mkdir()
    onnx.save(proto, folder / "model.onnx")
    random = np.random.default_rng(0)
    channels, *sides = network.input_shape
    images = random.integers(0, 256, (160, *sides, channels)).astype(np.uint8)
    fit, held_out = Dataset("fit", images[:60]), Dataset("held out", images[60:])
    if network.task == "classifier":
        fit, held_out = tiny_data("fit", 60, seed=0), tiny_data("held out", 99, seed=2)
    card = attach_to_file(
        folder / "model.onnx", make_head(head, {}), folder / "detector.onnx",
        fit=fit, calibration=held_out, preprocessing=network.preprocessing,
    )  # fmt: skip
    assert card["checks"]["forward"]["with"] == "the file as it was given"
    return ExportedDetector(folder / "detector.onnx")


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("head", ["sensnorm_profile", "knn", "reconstruction_error"])
def test_the_twin_with_channels_last_has_the_same_scores(tmp_path: Path, head: str, batch: str | int) -> None:
    network = tiny_autoencoder() if head == "reconstruction_error" else tiny_network()
    proto = export_forward(network) if head == "reconstruction_error" else tiny_proto()
    usual = attached(tmp_path / "first", proto, network, head)
    other = attached(tmp_path / "last", turned(proto, batch), network, head)
    images = np.random.default_rng(1).integers(0, 256, (20, *usual.input_shape)).astype(np.uint8)
    expected, found = usual(images), other(images)
    assert other.input_shape == usual.input_shape
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-4)
    np.testing.assert_allclose(found.output, expected.output, rtol=1e-4, atol=1e-5)


def test_a_file_with_channels_second_stays_as_it_is() -> None:
    model = load_graph(tiny_proto())
    assert channels_first(model) is model
    assert not channels_last(["N", 16, 16, 8])  # no image
    assert channels_last([None, None, None, 1])
