"""What a detector has seen: hashes that recognise inputs, and what is done about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparsense.data.dataset import Dataset
from sparsense.data.digests import digests
from sparsense.detector import calibrated, fit_head, recalibrate, write_detector
from sparsense.detector.seen import (
    CALIBRATED,
    FITTED,
    MOST,
    count_seen,
    held_out,
    kept_share,
    pack,
    properties,
    unpack,
    unseen,
)
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


def test_calibration_inputs_that_the_head_is_fitted_on_are_left_out() -> None:
    assert held_out(FIT, HELD_OUT) is HELD_OUT
    mixed = Dataset("mixed", np.concatenate([HELD_OUT.inputs, FIT.inputs[:3]]))
    np.testing.assert_array_equal(held_out(FIT, mixed).inputs, HELD_OUT.inputs)
    with pytest.raises(CalibrationError, match=r"calibrating on 'fit': .* found 60 of 60 also in 'fit'"):
        held_out(FIT, FIT)


def test_hashes_survive_the_metadata() -> None:
    found = unpack(properties(FIT.inputs, HELD_OUT.inputs), FITTED)
    assert set(found.tolist()) == set(digests(FIT.inputs).tolist())
    assert kept_share(found) == 1
    assert len(unpack({}, FITTED)) == 0


MANY = np.random.default_rng(0).integers(0, 2**64, 5 * MOST, np.uint64)


def test_of_many_inputs_a_sample_is_remembered() -> None:
    kept = unpack({FITTED: pack(MANY)}, FITTED)
    assert len(kept) == MOST
    assert np.isin(kept, MANY).all()
    assert kept_share(kept) == pytest.approx(0.2, rel=0.02)
    metadata = {FITTED: pack(MANY)}
    assert count_seen(metadata, MANY[:20_000]) == pytest.approx(20_000, rel=0.05)
    assert count_seen(metadata, MANY[:20_000] ^ np.uint64(1)) == 0
    assert count_seen({FITTED: "", CALIBRATED: ""}, MANY[:10]) is None


def test_what_a_sample_cannot_tell_apart_is_refused_where_it_matters() -> None:
    kept = unpack({FITTED: pack(MANY)}, FITTED)
    fresh = np.random.default_rng(1).integers(0, 2**64, 1000, np.uint64)
    mostly = unseen(kept, np.concatenate([fresh, kept[:2]]), name="mine", fitted="theirs", share=0.2)  # 8 more likely
    assert mostly.tolist() == [True] * 1000 + [False] * 2
    with pytest.raises(CalibrationError, match=r"found about 15 of 1003 also in 'theirs'"):
        unseen(kept, np.concatenate([fresh, kept[:3]]), name="mine", fitted="theirs", share=0.2)
    repeated = np.concatenate([fresh, np.repeat(kept[:1], 100)])  # one empty frame, many times
    assert unseen(kept, repeated, name="mine", fitted="theirs", share=0.2).sum() == 1000


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
    assert count_seen(metadata, digests(FRESH.inputs)) == 0
    mixed = np.concatenate([FIT.inputs[:4], FRESH.inputs, HELD_OUT.inputs[:7]])
    assert count_seen(metadata, digests(mixed)) == 11


def test_recalibration_leaves_out_what_the_head_was_fitted_on(path: Path) -> None:
    mixed = np.concatenate([FIT.inputs[:2], FRESH.inputs])
    card = recalibrate(path, [mixed], name="mine", output=path.with_name("mixed.onnx"))
    clean = recalibrate(path, [FRESH.inputs], output=path.with_name("clean.onnx"))
    assert card["data"]["calibration"]["left_out"] == 2
    assert clean["data"]["calibration"]["left_out"] == 0
    assert card["calibration"] == clean["calibration"]


def test_recalibration_refuses_what_leaves_too_little(path: Path) -> None:
    content = path.read_bytes()
    with pytest.raises(CalibrationError, match=r"calibrating on 'mine': .* found 60 of 60 also in 'fitting data'"):
        recalibrate(path, [FIT.inputs], name="mine")
    with pytest.raises(CalibrationError, match="needs at least 9 calibration samples; got 8") as caught:
        recalibrate(path, [np.concatenate([FIT.inputs, FRESH.inputs[:8]])])
    assert caught.value.__notes__ == ["60 more calibration inputs were left out: the head was fitted on equal ones"]
    assert path.read_bytes() == content


def test_recalibration_remembers_its_own_inputs(path: Path) -> None:
    recalibrate(path, [FRESH.inputs])
    metadata = ExportedDetector(path).metadata
    assert set(unpack(metadata, CALIBRATED).tolist()) == set(digests(FRESH.inputs).tolist())
    assert count_seen(metadata, digests(FIT.inputs)) == 60
    recalibrate(path, rate=0.2)
    assert ExportedDetector(path).metadata[CALIBRATED] == metadata[CALIBRATED]
