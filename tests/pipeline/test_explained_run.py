"""A recipe that asks for explanations and for thresholds per class: in the file, in the card, in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparsense.benchmark.card import load_card
from sparsense.benchmark.explanation_file import read_explanations
from sparsense.benchmark.report import write_report
from sparsense.data import SOURCES
from sparsense.data.digests import digests
from sparsense.detector.seen import count_seen
from sparsense.errors import InputError
from sparsense.pipeline import run_recipe
from sparsense.recipe.schema import Recipe
from sparsense.runtime import ExportedDetector

CHANGES = {
    "data.calibration.limit": 120,
    "prune": None,
    "finetune": None,
    "sensitivity.samples": 20,
    "heads": [
        {"name": "sensnorm_profile", "explain": True, "detail": "channels"},
        {"name": "energy", "explain": True},
    ],
    "calibrate.per_class": "pool",
    "benchmark": None,
}


@pytest.fixture(scope="module")
def folder(recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("run")
    return run_recipe(recipe(CHANGES | {"fit.cache": str(base / "kept")}), output=base / "explained")


def test_the_detector_explains_and_the_card_says_what(folder: Path) -> None:
    detector = ExportedDetector(folder / "detector.onnx")
    images = SOURCES["letters"]("test", limit=5).inputs
    found = detector(images, explain=True)
    names = detector.card["explanation"]["names"]
    assert found.explanation is not None
    assert found.explanation.shape == (5, len(names))
    np.testing.assert_allclose(found.explanation.sum(1), found.score, rtol=1e-3)
    assert found.explanation_map is not None
    assert found.explanation_map.shape == (5, *images.shape[1:3])


def test_what_the_heads_observed_is_kept(folder: Path) -> None:
    kept = [len(list(place.glob("*.npz"))) for place in (folder.parent / "kept").iterdir()]
    assert sorted(kept) == [1, 4]  # 200 samples in batches of 64; a head that learns nothing looks at the first


def test_the_card_counts_what_the_file_decides(folder: Path) -> None:
    card, detector = load_card(folder / "card.json"), ExportedDetector(folder / "detector.onnx")
    row = card.calibration[0]
    test = SOURCES["digits"]("test", limit=80, seed=0).inputs
    assert row.realised == detector(test).is_anomaly.mean()
    assert row.classes is not None
    assert len(row.classes) == 10
    assert sum(entry.n for entry in row.classes if not entry.pooled) <= row.n == 120
    assert {entry.threshold for entry in row.classes if entry.pooled} <= {row.threshold}
    letters = SOURCES["letters"]("", limit=40, seed=0).inputs
    assert card.results[0].detected == detector(letters).is_anomaly.mean()


def test_the_file_recognises_what_it_was_made_from(folder: Path) -> None:
    metadata = ExportedDetector(folder / "detector.onnx").metadata
    sets = {split: SOURCES["digits"](split, limit=80, seed=0).inputs for split in ("train", "calibration", "test")}
    assert {name: count_seen(metadata, digests(inputs)) for name, inputs in sets.items()} == {
        "train": 80, "calibration": 80, "test": 0,
    }  # fmt: skip


def test_the_most_anomalous_inputs_are_kept_with_their_reasons(folder: Path) -> None:
    card, drawn = load_card(folder / "card.json"), read_explanations(folder / "explanations.npz")
    profile, energy = card.explanations
    assert (profile.kind, energy.kind) == ("channels", None)
    assert all(name.endswith("]") for name in profile.names)
    found = drawn["dense", "sensnorm_profile"]
    assert [example.dataset for example in profile.examples] == ["test", "test", "letters", "letters"]
    np.testing.assert_allclose(np.sum(found.parts, axis=1), [e.score for e in profile.examples], rtol=1e-3)
    letters = SOURCES["letters"]("", limit=40, seed=0).inputs
    np.testing.assert_array_equal(found.images[2], letters[profile.examples[2].index])  # type: ignore[index]
    scores = ExportedDetector(folder / "detector.onnx")(letters).score
    assert profile.examples[2].index == int(np.argmax(scores))
    assert drawn["dense", "energy"].parts is None


def test_the_report_draws_them(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    assert "Why the highest scores are high" in text
    assert "What the highest scores of sensnorm_profile (dense network) are made of" in text
    assert "Where the highest scores of energy (dense network) come from" in text
    assert '"type":"bar"' in text
    assert '"type":"heatmap"' in text
    assert "Which channels make the highest score of sensnorm_profile (dense network)" in text
    assert "per class" in text


def test_a_report_without_its_arrays_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("card.json", "scores.npz"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(InputError, match=r"explanations\.npz has no arrays dense/sensnorm_profile"):
        write_report(tmp_path)
    np.savez(tmp_path / "explanations.npz", **{"dense/energy/nonsense": np.zeros(3)})
    with pytest.raises(InputError, match="expected arrays named variant/head"):
        write_report(tmp_path)


def test_the_card_in_the_file_is_valid_json(folder: Path) -> None:
    run = ExportedDetector(folder / "detector.onnx").card["run"]
    assert json.loads(json.dumps(run))["explanations"][0]["names"]
