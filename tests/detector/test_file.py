"""The file: kept only when it agrees, asked again at any time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from sparsense.detector import PARITY_KEY, calibrated, fit_head, parity_inputs, verify, write_detector
from sparsense.errors import ExportError, InputError
from sparsense.heads import HEADS
from sparsense.oracles import oracle_scores
from sparsense.parity import Parity
from sparsense.runtime import ExportedDetector
from tiny_classifier import tiny_data, tiny_graph, tiny_network


@pytest.fixture(scope="module")
def closed():
    preprocessing = tiny_network().preprocessing
    scored = fit_head(tiny_graph(), HEADS["sensnorm"](), tiny_data("fit", 60, seed=0), preprocessing=preprocessing)
    inputs = parity_inputs(tiny_data("calibration", 99, seed=2).inputs)
    model, calibration = calibrated(scored, scored.scores(tiny_data("calibration", 99, seed=2).inputs), 0.05)
    card = {"preprocessing": preprocessing.to_dict(), "calibration": calibration.to_dict()}
    return model, card, Parity(inputs, oracle_scores(scored, tiny_network(), inputs), "torch", 1e-5)


def test_a_detector_that_agrees_is_kept_and_runs(closed, tmp_path: Path) -> None:
    model, card, parity = closed
    path = tmp_path / "detectors" / "tiny.onnx"
    rows = write_detector(model, path, card=card, parity=parity)
    assert all(row["agrees"] for row in rows)
    detector = ExportedDetector(path)
    assert detector.card == json.loads(json.dumps({"format": 1, "micro_batch": 1024, **card}))
    np.testing.assert_allclose(detector(parity.inputs).score, parity.scores, rtol=1e-5)
    assert verify(path) == rows
    assert list(path.parent.iterdir()) == [path]


def test_a_wrong_oracle_leaves_nothing_behind(closed, tmp_path: Path) -> None:
    model, card, parity = closed
    wrong = parity.scores.copy()
    wrong[5] *= 1 + 1e-4
    path = tmp_path / "tiny.onnx"
    with pytest.raises(ExportError, match="the file was not kept") as error:
        write_detector(model, path, card=card, parity=Parity(parity.inputs, wrong, "planted", 1e-5))
    assert error.value.worst == pytest.approx(1e-4, rel=0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_disagreeing_detector_does_not_replace_a_good_one(closed, tmp_path: Path) -> None:
    model, card, parity = closed
    path = tmp_path / "tiny.onnx"
    path.write_bytes(b"an older detector")
    with pytest.raises(ExportError):
        write_detector(model, path, card=card, parity=Parity(parity.inputs, -parity.scores, "planted", 1e-5))
    assert path.read_bytes() == b"an older detector"


def test_verify_finds_a_changed_weight(closed, tmp_path: Path) -> None:
    model, card, parity = closed
    path = tmp_path / "tiny.onnx"
    write_detector(model, path, card=card, parity=parity)
    proto = onnx.load(path)
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "head.weight")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0, 0] *= 1.01
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(proto, path)
    assert not any(row["agrees"] for row in verify(path))


def test_verify_asks_for_stored_inputs(closed, tmp_path: Path) -> None:
    model, card, parity = closed
    path = tmp_path / "tiny.onnx"
    write_detector(model, path, card=card, parity=parity)
    proto = onnx.load(path)
    kept = [entry for entry in proto.metadata_props if entry.key != PARITY_KEY]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    onnx.save(proto, path)
    with pytest.raises(InputError, match="expected stored parity inputs in its metadata, found none"):
        verify(path)


def test_parity_inputs_are_half_given_and_half_random() -> None:
    given = tiny_data("calibration", 99, seed=2).inputs
    chosen = parity_inputs(given)
    known = {image.tobytes() for image in given}
    assert [image.tobytes() in known for image in chosen] == [True] * 16 + [False] * 16
    np.testing.assert_array_equal(chosen, parity_inputs(given))


def test_large_inputs_are_stored_in_smaller_number() -> None:
    given = np.zeros((10, 64, 64, 3), np.uint8)
    assert len(parity_inputs(given, maximum_bytes=4 * given[0].nbytes)) == 4
    assert len(parity_inputs(given, maximum_bytes=1)) == 2


def test_random_rows_lie_where_the_given_ones_lie() -> None:
    given = (100 + 5 * np.random.default_rng(0).standard_normal((200, 7))).astype(np.float32)
    made = parity_inputs(given, count=100)[50:]
    assert made.dtype == np.float32
    assert made.mean() == pytest.approx(100, abs=1)
    assert made.std() == pytest.approx(5, rel=0.2)
