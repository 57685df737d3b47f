"""`sparsense drift` on a detector whose score is the mean of a row, calibrated on 1 .. 99."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from sparsense.calibrate import p_values
from sparsense.cli import app
from sparsense.drift import drift_test
from tiny_detectors import CALIBRATION, card, write_detector

USUAL = np.linspace(1, 99, 300)


def drift(rows: np.ndarray, *arguments: str, classes: list[dict[str, object]] | None = None) -> Result:
    about = card(layout="ND", dtype="float32")
    if classes is not None:
        about["calibration"] = about["calibration"] | {"classes": classes}
    write_detector(Path("d.onnx"), shape=("N", 2), card=about)
    np.save("rows.npy", np.repeat(rows[:, None], 2, axis=1).astype(np.float32))
    return CliRunner().invoke(app, ["drift", "d.onnx", "rows.npy", *arguments])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_usual_rows_have_not_drifted() -> None:
    result = drift(USUAL, "--fail-on-drift")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split() == ["class", "inputs", "calibrated", "statistic", "probability"]
    assert result.stderr.startswith("no drift: probability ")


@pytest.mark.parametrize(("arguments", "alternative"), [((), "anomalous"), (("--either",), "any")])
def test_the_numbers_are_those_of_the_test(arguments: tuple[str, ...], alternative: str) -> None:
    rows = USUAL**1.1
    result = drift(rows, "--json", *arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    expected = drift_test(p_values(CALIBRATION, rows), 99, alternative=alternative)  # type: ignore[arg-type]
    (test,) = found["tests"]
    assert (test["statistic"], test["probability"]) == pytest.approx(expected)
    assert found["probability"] == test["probability"]
    assert (test["class"], test["inputs"], test["calibrated"]) == ("all", 300, 99)


def test_rows_that_have_risen_are_told_of_and_may_fail_a_script() -> None:
    assert drift(USUAL + 30).exit_code == 0
    result = drift(USUAL + 30, "--fail-on-drift")
    assert result.exit_code == 1
    assert result.stderr.startswith("a drift: probability ")
    assert drift(USUAL + 30, "--fail-on-drift", "--level", "0").exit_code == 0


def test_lower_scores_are_a_drift_only_when_asked_for() -> None:
    assert drift(USUAL - 60, "--fail-on-drift").exit_code == 0
    assert drift(USUAL - 60, "--fail-on-drift", "--either").exit_code == 1


def test_classes_are_tested_one_by_one_with_their_own_samples() -> None:
    """Negative means are predicted as class 1, whose output -score is the larger one."""
    own = {"threshold": 95.0, "interval": [0.0, 0.1]}
    classes = [{**own, "class": 0, "n": 99, "pooled": False}, {**own, "class": 1, "n": 5, "pooled": True}]
    found = json.loads(drift(np.concatenate([USUAL, -USUAL[:40]]), "--json", classes=classes).stdout)
    assert [(t["class"], t["inputs"], t["calibrated"]) for t in found["tests"]] == [("0", 300, 99), ("1", 40, 99)]
    assert found["probability"] == min(1.0, 2 * min(t["probability"] for t in found["tests"]))
    classes[1] |= {"n": 49, "pooled": False}
    result = drift(-USUAL, "--json", classes=classes)
    assert json.loads(result.stdout)["tests"][0]["calibrated"] == 49
