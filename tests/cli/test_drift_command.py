"""`sparsense drift` on a detector whose score is the mean of a row, calibrated on 1 .. 99."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner, Result

from sparsense.calibrate import p_values
from sparsense.cli import app
from sparsense.detector.close import CLASSES, SCORES
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
    own = {"threshold": 95.0, "interval": [0.0, 0.1], "pooled": False}
    classes = [{**own, "class": 0, "n": 99}, {**own, "class": 1, "n": 49}]
    found = json.loads(drift(np.concatenate([USUAL, -USUAL[:40]]), "--json", classes=classes).stdout)
    assert [(t["class"], t["inputs"], t["calibrated"]) for t in found["tests"]] == [("0", 300, 99), ("1", 40, 49)]
    assert found["probability"] == min(1.0, 2 * min(t["probability"] for t in found["tests"]))
    assert found["untested"] == 0


def remembering(file: str, scores: np.ndarray, classes: np.ndarray) -> None:
    """Give a detector what it was calibrated with."""
    model = onnx.load(file)
    for name, values in ((SCORES, scores.astype(np.float32)), (CLASSES, classes.astype(np.int64))):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(model, file)


@pytest.mark.parametrize("arguments", [(), ("--either",)])
def test_a_pooled_class_is_compared_with_its_own_calibration_scores(arguments: tuple[str, ...]) -> None:
    """Its scores are higher than those of the others, and were so at calibration: its p-values among all are small."""
    row = {"threshold": 95.0, "interval": [0.0, 0.1]}
    classes = [{**row, "class": 0, "n": 15, "pooled": True}, {**row, "class": 1, "n": 99, "pooled": False}]
    rare, rows = np.linspace(80, 99, 15, dtype=np.float32), np.linspace(80, 99, 300)
    drift(rows, classes=classes)
    remembering("d.onnx", np.concatenate([CALIBRATION - 100, rare]), np.repeat([1, 0], [99, 15]))
    found = json.loads(CliRunner().invoke(app, ["drift", "d.onnx", "rows.npy", "--json", *arguments]).stdout)
    alternative = "any" if arguments else "anomalous"
    expected = drift_test(p_values(rare, rows.astype(np.float32)), 15, alternative=alternative, calibration=rare)  # type: ignore[arg-type]
    (test,) = found["tests"]
    assert (test["class"], test["inputs"], test["calibrated"]) == ("0", 300, 15)
    assert (test["statistic"], test["probability"]) == pytest.approx(expected)
    assert not found["drift"]


def test_a_pooled_class_that_was_never_seen_is_left_out() -> None:
    row = {"threshold": 95.0, "interval": [0.0, 0.1]}
    classes = [{**row, "class": 0, "n": 99, "pooled": False}, {**row, "class": 1, "n": 0, "pooled": True}]
    result = drift(np.concatenate([USUAL, -USUAL[:40]]), "--json", classes=classes)
    found = json.loads(result.stdout)
    assert [test["class"] for test in found["tests"]] == ["0"]
    assert found["untested"] == 40
    assert "40 inputs left out: of classes without calibration inputs" in result.stderr
    nothing = drift(-USUAL, classes=classes)
    assert nothing.exit_code == 2
    assert "remembers no calibration inputs of the classes predicted here" in nothing.stderr


def test_no_inputs_are_an_error() -> None:
    result = drift(np.zeros(0))
    assert result.exit_code == 2
    assert "testing for a drift: expected inputs, found none in rows.npy" in result.stderr
