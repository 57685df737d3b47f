"""`sparsense bench` on data: what it says is what the metrics say, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from sparsense.benchmark.metrics import aupr, auroc, detection_accuracy, fpr95, fpr_at_tpr
from sparsense.benchmark.uncertainty import Pair, delong_p_value, wilson_interval
from sparsense.cli import app
from sparsense.cli.contest import named_sets
from sparsense.detector.seen import properties
from sparsense.errors import InputError
from tiny_detectors import CARD, write_detector

SHAPE = (4, 5, 3)


def images(count: int, low: int, high: int, seed: int) -> np.ndarray:
    """Whose score, the mean pixel, lies between low and high."""
    random = np.random.default_rng(seed)
    level = random.integers(low, high, (count, 1, 1, 1))
    return np.clip(level + random.integers(-3, 4, (count, *SHAPE)), 0, 255).astype(np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_detector(Path("a.onnx"))
    write_detector(Path("b.onnx"))
    np.save("usual.npy", images(120, 0, 98, 0))
    np.save("far.npy", images(60, 90, 200, 1))
    Path("near").mkdir()
    for index, picture in enumerate(images(40, 60, 130, 2)):
        Image.fromarray(picture).save(f"near/{index:02}.png")
    return tmp_path


def bench(*arguments: str, **more: Any) -> Result:
    return CliRunner().invoke(app, ["bench", *arguments], **more)


def scores(path: str) -> np.ndarray:
    return np.load(path).reshape(len(np.load(path)), -1).mean(1)


DATA = ("--in-distribution", "usual.npy", "--anomalous", "far.npy", "--anomalous", "near")


def rows(result: Result, table: str) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [row for row in map(json.loads, result.stdout.splitlines()) if row["table"] == table]


def test_every_number_is_that_of_the_metrics() -> None:
    found = bench("a.onnx", *DATA, "--no-latency", "--json")
    far, near = rows(found, "results")
    usual, strange = scores("usual.npy"), scores("far.npy")
    assert (far["detector"], far["dataset"], near["dataset"], near["n"]) == ("a", "far", "near", 40)
    assert far["auroc"] == pytest.approx(auroc(usual, strange))
    assert far["aupr_out"] == pytest.approx(aupr(usual, strange))
    assert far["aupr_in"] == pytest.approx(aupr(usual, strange, positive="in_distribution"))
    assert far["fpr95"] == pytest.approx(fpr95(usual, strange))
    assert far["fpr95_anomalous"] == pytest.approx(fpr_at_tpr(usual, strange, positive="anomalous"))
    assert far["accuracy"] == pytest.approx(detection_accuracy(usual, strange, 95.0))
    assert far["detected"] == (strange > 95).mean()
    (detector,) = rows(found, "detectors")
    alarms = int((usual > 95).sum())
    assert (detector["false_alarms"], detector["n"], detector["rate"]) == (alarms, 120, 0.05)
    assert detector["realised_interval"] == pytest.approx(wilson_interval(alarms, 120))
    assert detector["bytes"] == Path("a.onnx").stat().st_size
    assert rows(found, "latency") == rows(found, "differences") == []


def test_detectors_are_compared_in_pairs() -> None:
    other = {**CARD, "calibration": {**CARD["calibration"], "threshold": 95.0}}
    write_detector(Path("b.onnx"), card=other)
    (far, near) = rows(bench("a.onnx", "b.onnx", *DATA, "--no-latency", "--json"), "differences")
    assert (far["first"], far["second"], far["dataset"], far["p"]) == ("a", "b", "far", 1.0)
    pair = Pair(scores("usual.npy"), scores("far.npy"))
    assert far["p"] == delong_p_value(pair, pair)
    assert near["verdict"] == "not distinguishable"


def test_files_of_every_kind_hold_the_same(folder: Path) -> None:
    outputs = [part for name in ("c.json", "c.md", "c.html") for part in ("--output", name)]
    result = bench("a.onnx", "b.onnx", *DATA, *outputs, "--rounds", "6", "--batch", "2", "--quiet")
    assert result.exit_code == 0, result.output
    card = json.loads(Path("c.json").read_text())
    assert [(row["name"], row["role"], row["count"]) for row in card["sets"]] == [
        ("in-distribution", "in_distribution", 120), ("far", "anomalous", 60), ("near", "anomalous", 40),
    ]  # fmt: skip
    assert len(card["results"]) == 4
    assert len(card["latency"]) == 2
    page, text = Path("c.html").read_text(), Path("c.md").read_text()
    for caption in ("Detection in %", "False alarms in %", "Differences, second minus first", "Time per call"):
        assert all(caption in whole for whole in (page, text, result.stdout))
    assert "http" not in page.replace('http-equiv="Content', "")
    shown = f"{100 * card['results'][0]['auroc']:.1f}"
    assert all(shown in whole for whole in (page, text, result.stdout))


def test_without_anomalies_only_false_alarms_are_told() -> None:
    result = bench("a.onnx", "--in-distribution", "usual.npy", "--no-latency", "--json")
    assert rows(result, "results") == []
    assert rows(result, "detectors")[0]["n"] == 120


def test_inputs_unlike_the_calibration_are_recognised() -> None:
    np.save("brighter.npy", images(120, 40, 140, 3))
    result = bench("a.onnx", "--in-distribution", "brighter.npy", "--no-latency")
    assert "too many false alarms" in result.stdout
    assert "which inputs made it is unknown" in result.stdout
    (row,) = rows(bench("a.onnx", "--in-distribution", "brighter.npy", "--no-latency", "--json"), "detectors")
    assert row["realised_p"] < 1e-6
    assert row["seen"] is None


def test_thresholds_per_class_have_no_interval_of_their_own() -> None:
    row = {"threshold": 95.0, "n": 99, "interval": [0.0, 0.1], "pooled": False}
    write_detector(Path("c.onnx"), card=CARD | {"calibration": {**CARD["calibration"], "classes": [row, row]}})
    (found,) = rows(bench("c.onnx", "--in-distribution", "usual.npy", "--no-latency", "--json"), "detectors")
    assert (found["per_class"], found["expected_interval"], found["realised_p"]) == (True, None, None)


def test_inputs_that_made_the_detector_are_counted(folder: Path) -> None:
    import onnx

    usual = np.load("usual.npy")
    proto = onnx.load("a.onnx")
    entries = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, entries | properties(usual[:10], usual[50:55]))
    onnx.save(proto, "a.onnx")
    result = bench("a.onnx", *DATA, "--no-latency")
    assert "15 inputs were used to make it" in result.stdout
    assert rows(bench("a.onnx", *DATA, "--no-latency", "--json"), "detectors")[0]["seen"] == 15


def test_a_plain_model_takes_part_in_the_race_only() -> None:
    write_detector(Path("plain.onnx"), card=None)
    result = bench("plain.onnx", "a.onnx", *DATA, "--rounds", "6", "--batch", "1", "--json")
    assert result.stderr == "plain.onnx is no detector: only its speed is compared\n"
    assert [row["file"] for row in rows(result, "latency")] == ["plain.onnx", "a.onnx"]
    assert {row["detector"] for row in rows(result, "results")} == {"a"}
    assert "none of the files is a detector" in bench("plain.onnx", *DATA).stderr


def test_standard_input_serves_every_detector() -> None:
    names = "".join(f"near/{index:02}.png\n" for index in range(40))
    result = bench(
        "a.onnx",
        "b.onnx",
        "--in-distribution",
        "usual.npy",
        "--anomalous",
        "x=-",
        "--no-latency",
        "--json",
        input=names,
    )
    assert [row["n"] for row in rows(result, "results")] == [40, 40]


def test_sets_are_named_and_joined() -> None:
    found = named_sets(["a.npy", "b"], ["x=1.npy", "folder/y.npy", "x=2.npy"])
    assert [(part.name, part.inputs) for part in found] == [
        ("in-distribution", ["a.npy", "b"]), ("x", ["1.npy", "2.npy"]), ("y", ["folder/y.npy"]),
    ]  # fmt: skip
    with pytest.raises(InputError, match="no anomalous set can be called 'in-distribution'"):
        named_sets(["a"], ["in-distribution=b"])


def test_files_of_one_name_are_two_sets() -> None:
    found = named_sets(["u"], ["svhn/test.npz", "textures/test.npz", "test=c", "d.npy"])
    assert [(part.name, part.inputs) for part in found[1:]] == [
        ("svhn/test.npz", ["svhn/test.npz"]), ("textures/test.npz", ["textures/test.npz"]),
        ("test", ["c"]), ("d", ["d.npy"]),
    ]  # fmt: skip


def test_a_path_that_exists_has_no_name() -> None:
    Path("split=test").mkdir()
    Path("split=test/p.npy").touch()
    found = named_sets(["u"], ["split=test/p.npy", "split=test/absent.npy"])
    assert [(part.name, part.inputs) for part in found[1:]] == [
        ("p", ["split=test/p.npy"]), ("split", ["test/absent.npy"])
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--anomalous", "far.npy"], "anomalies need inputs to be compared with; give --in-distribution"),
        (["--in-distribution", "usual.npy", "--anomalous", "x=usual.npy"],
         "120 inputs of the anomalous set 'x' are also in the in-distribution set"),
        (["--in-distribution", "no.npy"], "there is no file no.npy"),
        (["--output", "x.csv"], "writing x.csv: expected a file that ends with .json, .md, .html; got '.csv'"),
    ],
)  # fmt: skip
def test_mistakes(arguments: list[str], message: str) -> None:
    result = bench("a.onnx", "--no-latency", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
