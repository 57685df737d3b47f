"""What a detector has seen: hashes that recognise inputs, and what is done about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparsense.data.dataset import Dataset
from sparsense.data.digests import digests
from sparsense.detector import calibrated, fit_head, recalibrate, write_detector
from sparsense.detector.seen import CALIBRATED, FITTED, MOST, check_held_out, count_seen, pack, properties, unpack
from sparsense.errors import CalibrationError, InputError
from sparsense.heads import HEADS
from sparsense.parity import Parity
from sparsense.runtime import ExportedDetector
from tiny_classifier import tiny_data, tiny_graph, tiny_network

FIT, HELD_OUT, FRESH = (tiny_data(name, 60, seed=seed) for name, seed in [("fit", 0), ("held out", 2), ("fresh", 5)])


def test_digests_are_of_the_content_of_each_input() -> None:
    inputs = np.random.default_rng(0).integers(0, 256, (500, 4, 4, 3)).astype(np.uint8)
    found = digests(inputs)
    assert len(set(found.tolist())) == 500
    np.testing.assert_array_equal(digests(inputs[::-1]), found[::-1])
    np.testing.assert_array_equal(digests(np.asfortranarray(inputs)), found)
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(digests(rows), digests(rows.astype(">f4").astype(np.float32)))


def test_a_calibration_set_that_shares_inputs_with_the_fitting_set_is_refused() -> None:
    check_held_out(FIT, HELD_OUT)
    mixed = Dataset("mixed", np.concatenate([HELD_OUT.inputs, FIT.inputs[:3]]))
    with pytest.raises(CalibrationError, match=r"calibrating on 'mixed': .* found 3 of 63 also in 'fit'"):
        check_held_out(FIT, mixed)


def test_hashes_survive_the_metadata() -> None:
    found = unpack(properties(FIT.inputs, HELD_OUT.inputs), FITTED)
    assert set(found.tolist()) == set(digests(FIT.inputs).tolist())
    assert len(unpack({}, FITTED)) == 0
    assert pack(np.arange(MOST + 1, dtype=np.uint64)) == ""


@pytest.mark.parametrize("text", ["not base64!", "AAAA"])
def test_damaged_hashes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="reading what a detector has seen"):
        unpack({FITTED: text}, FITTED)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    preprocessing = tiny_network().preprocessing
    scored = fit_head(tiny_graph(), HEADS["energy"](), FIT, preprocessing=preprocessing)
    model, found = calibrated(scored, scored.judge(HELD_OUT.inputs), 0.1)
    card = {"head": "energy", "preprocessing": preprocessing.to_dict(), "calibration": found.to_dict()}
    parity = Parity(FRESH.inputs[:8], scored.scores(FRESH.inputs[:8]).astype(np.float64), "itself", 1e-5)
    seen = properties(FIT.inputs, HELD_OUT.inputs)
    write_detector(model, tmp_path / "d.onnx", card=card, parity=parity, seen=seen)
    return tmp_path / "d.onnx"


def test_a_detector_knows_what_it_was_made_from(path: Path) -> None:
    metadata = ExportedDetector(path).metadata
    assert count_seen(metadata, FRESH.inputs) == 0
    mixed = np.concatenate([FIT.inputs[:4], FRESH.inputs, HELD_OUT.inputs[:7]])
    assert count_seen(metadata, mixed) == 11


def test_recalibration_refuses_what_the_head_was_fitted_on(path: Path) -> None:
    content = path.read_bytes()
    mixed = np.concatenate([FRESH.inputs, FIT.inputs[:2]])
    with pytest.raises(CalibrationError, match=r"calibrating on 'mine': .* found 2 of 62 also in 'fitting data'"):
        recalibrate(path, [mixed], name="mine")
    assert path.read_bytes() == content


def test_recalibration_remembers_its_own_inputs(path: Path) -> None:
    recalibrate(path, [FRESH.inputs])
    metadata = ExportedDetector(path).metadata
    assert set(unpack(metadata, CALIBRATED).tolist()) == set(digests(FRESH.inputs).tolist())
    assert count_seen(metadata, FIT.inputs) == 60
    recalibrate(path, rate=0.2)
    assert ExportedDetector(path).metadata[CALIBRATED] == metadata[CALIBRATED]
