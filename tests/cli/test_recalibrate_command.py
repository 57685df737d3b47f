"""`sparsense recalibrate`: from the command line to a file that decides otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from sparsense.calibrate import calibrate
from sparsense.cli import app
from sparsense.detector import calibrated, fit_head, write_detector
from sparsense.heads import HEADS
from sparsense.parity import Parity
from sparsense.runtime import ExportedDetector
from tiny_classifier import tiny_data, tiny_graph, tiny_network

OWN = tiny_data("own", 120, seed=21).inputs


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    preprocessing = tiny_network().preprocessing
    scored = fit_head(tiny_graph(), HEADS["energy"](), tiny_data("fit", 20, seed=0), preprocessing=preprocessing)
    held_out = scored.judge(tiny_data("calibration", 99, seed=2).inputs)
    model, found = calibrated(scored, held_out, 0.05)
    card = {"head": "energy", "preprocessing": preprocessing.to_dict(), "calibration": found.to_dict()}
    parity = Parity(OWN[:8], scored.scores(OWN[:8]).astype(np.float64), "itself", 1e-5)
    write_detector(model, tmp_path / "d.onnx", card=card, parity=parity)
    np.save("own.npy", OWN)
    return tmp_path / "d.onnx"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["recalibrate", "d.onnx", *arguments])


def test_inputs_of_the_users_own(path: Path) -> None:
    scores = ExportedDetector(path)(OWN).score
    result = call("--inputs", "own.npy", "--rate", "0.1", "--out", "new.onnx")
    assert result.exit_code == 0, result.output
    assert result.stdout == "new.onnx\n"
    assert result.stderr.startswith("calibrated on 120: threshold ")
    found = ExportedDetector("new.onnx")
    assert found.threshold == calibrate(scores, 0.1).threshold
    assert found.card["data"]["calibration"]["name"] == "own.npy"
    assert ExportedDetector(path).card["calibration"]["n"] == 99


def test_several_inputs_are_one_set(path: Path) -> None:
    np.save("more.npy", OWN[:7])
    call("--inputs", "own.npy", "--inputs", "more.npy", "--quiet")
    assert ExportedDetector(path).card["data"]["calibration"] | {"sha256": ""} == {
        "name": "own.npy, more.npy",
        "count": 127,
        "sha256": "",
        "left_out": 0,
    }


def test_only_the_rate(path: Path) -> None:
    result = call("--rate", "0.2", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "d.onnx\n", "")
    assert ExportedDetector(path).card["calibration"]["rate"] == 0.2


def test_per_class(path: Path) -> None:
    result = call("--inputs", "own.npy", "--rate", "0.2", "--per-class", "pool")
    assert "for 20.00% false alarms in each of 4 predicted classes" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "0.001"], "a false-alarm rate of 0.001 needs at least 999 calibration samples; got 99"),
        (["--rate", "1.5"], "the false-alarm rate must lie between 0 and 1; got 1.5"),
        (["--inputs", "no.npy"], "there is no file no.npy"),
        (
            ["--per-class", "strict"],
            "expected the class predicted for every calibration input, found scores alone; give inputs",
        ),
    ],
)
def test_mistakes_leave_the_file_alone(path: Path, arguments: list[str], message: str) -> None:
    content = path.read_bytes()
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert path.read_bytes() == content
    assert sorted(file.name for file in path.parent.iterdir()) == ["d.onnx", "own.npy"]
