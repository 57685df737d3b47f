"""A file with free height and width, given a gradient head: the scores of torch at every size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from sparsense.data.dataset import Dataset
from sparsense.detector import AttachSettings, attach_to_file, fit_head
from sparsense.detector.grouped import grouped
from sparsense.detector.groups import group_inputs
from sparsense.graph import forward_graph, load_graph
from sparsense.heads import HEADS
from sparsense.oracles import oracle_scores
from sparsense.runtime import ExportedDetector
from sparsense.to_onnx import export_forward
from tiny_classifier import SIDE, tiny_images, tiny_network


@pytest.fixture(scope="module")
def proto() -> onnx.ModelProto:
    found = export_forward(tiny_network(), dynamic_spatial=True)
    sides = [dim.dim_value for dim in found.graph.input[0].type.tensor_type.shape.dim]
    assert sides[2:] == [0, 0]
    return found


@pytest.mark.parametrize("structure", ["weight", "channel"])
def test_a_gradient_head_scores_other_sizes_as_torch_does(
    proto: onnx.ModelProto, structure: str, tmp_path: Path
) -> None:
    onnx.save(proto, tmp_path / "model.onnx")
    options, network = {"structure": structure, "p": 2.0}, tiny_network()
    fit, held_out = (tiny_images(name, 100, seed=seed, side=SIDE) for name, seed in (("fit", 0), ("held out", 1)))
    attach_to_file(
        tmp_path / "model.onnx", HEADS["sensnorm_profile"](**options), tmp_path / "detector.onnx", fit=fit,
        calibration=held_out, preprocessing=network.preprocessing,
    )  # fmt: skip
    detector = ExportedDetector(tmp_path / "detector.onnx")
    assert detector.input_shape == (None, None, 3)
    head = HEADS["sensnorm_profile"](**options)
    scored = fit_head(
        forward_graph(load_graph(proto), network.preprocessing), head, fit, preprocessing=network.preprocessing
    )
    for side in (SIDE, 12, 17):
        images: Dataset = tiny_images("other", 6, seed=2, side=side)
        expected = oracle_scores(scored, network, images.inputs)
        np.testing.assert_allclose(
            detector(images.inputs).score, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()
        )


@pytest.mark.parametrize("name", ["sensnorm", "energy"])
def test_groups_of_any_size_of_images_are_scored_as_torch_does(
    proto: onnx.ModelProto, name: str, tmp_path: Path
) -> None:
    onnx.save(proto, tmp_path / "model.onnx")
    network = tiny_network()
    fit, held_out = (tiny_images(what, 100, seed=seed, side=SIDE) for what, seed in (("fit", 0), ("held out", 1)))
    attach_to_file(
        tmp_path / "model.onnx", HEADS[name](), tmp_path / "detector.onnx", fit=fit, calibration=held_out,
        preprocessing=network.preprocessing, settings=AttachSettings(group=3),
    )  # fmt: skip
    detector = ExportedDetector(tmp_path / "detector.onnx")
    assert detector.input_shape == (3, None, None, 3)
    graph = forward_graph(load_graph(proto), network.preprocessing)
    scored = grouped(graph, fit_head(graph, HEADS[name](), fit, preprocessing=network.preprocessing), 3)
    for side in (SIDE, 12):
        groups = group_inputs(tiny_images("other", 6, seed=2, side=side).inputs, 3)
        np.testing.assert_allclose(detector(groups).score, oracle_scores(scored, network, groups), rtol=1e-4)
