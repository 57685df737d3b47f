"""A recipe whose detectors judge groups of inputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsense.errors import CalibrationError, RecipeError
from sparsense.pipeline import run_recipe
from sparsense.runtime import ExportedDetector


def test_a_run_calibrates_and_measures_groups(recipe, tmp_path: Path) -> None:
    heads = [{"name": "sensnorm", "group": 4}, {"name": "energy", "group": 4}]
    folder = run_recipe(recipe({"heads": heads, "prune": None, "finetune": None}), output=tmp_path / "run")
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert {row["n"] for row in card["results"]} == {10}
    assert {row["n_in_distribution"] for row in card["results"]} == {20}
    assert {row["n"] for row in card["calibration"]} == {15}
    assert all(row["worst"] <= row["tolerance"] for row in card["parity"])
    for file in (folder / "detector.onnx", *(folder / "others").glob("*.onnx")):
        loaded = ExportedDetector(file)
        assert (loaded.group, loaded.input_shape[0]) == (4, 4)


def test_too_few_groups_are_refused_before_anything_runs(recipe, tmp_path: Path) -> None:
    asked = recipe({"heads": [{"name": "energy", "group": 20}]})
    with pytest.raises(CalibrationError, match="got 3") as caught:
        run_recipe(asked, output=tmp_path / "run")
    assert "a group of 20 inputs" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "changes",
    [{"heads": [{"name": "energy", "group": 2, "explain": True}]},
     {"heads": [{"name": "energy", "group": 2}], "calibrate.per_class": "pool"}],
)  # fmt: skip
def test_what_groups_cannot_have_is_refused_by_its_key(recipe, changes: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=r"heads.0.group: .* is about single inputs, and this head judges 2 as one"):
        recipe(changes)
