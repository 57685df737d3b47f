"""`sparsense compare`: what it says is what the statistics say, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmark.example_run import make_card, make_scores
from sparsense.benchmark.bench import Contestant, Judged
from sparsense.benchmark.metrics import auroc
from sparsense.benchmark.score_file import ScoreKey, write_scores
from sparsense.benchmark.uncertainty import Pair, compare
from sparsense.cli import app
from sparsense.sweep.compare import _separation
from tiny_detectors import write_detector


def run(*arguments: str):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def write_run(folder: Path, *, seed: int = 0, weaker: float = 0.0) -> dict[ScoreKey, np.ndarray]:
    scores = make_scores(seed)
    if weaker:
        random = np.random.default_rng(9)
        scores = {key: values + random.normal(0, weaker * values.std(), len(values)) for key, values in scores.items()}
    folder.mkdir()
    make_card(scores).save(folder / "card.json")
    write_scores(folder / "scores.npz", scores)
    return scores


def test_two_runs_are_compared_pair_by_pair(tmp_path):
    one, two = write_run(tmp_path / "a"), write_run(tmp_path / "b", weaker=1.5)
    done = run(tmp_path / "a", tmp_path / "b", "--json", "--head", "energy", "--variant", "dense")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.output.splitlines()]
    assert {row["measure"] for row in rows} == {"AUROC", "FPR95", "detected", "false alarms", "accuracy"}
    svhn = next(row for row in rows if (row["measure"], row["dataset"]) == ("AUROC", "svhn"))
    pairs = [Pair(*(s[ScoreKey("dense", "energy", name)] for name in ("test", "svhn"))) for s in (one, two)]
    expected = compare(*pairs, seed=0)["auroc"]
    assert svhn["difference"] == pytest.approx(auroc(*pairs[1]) - auroc(*pairs[0]))
    assert svhn["interval"] == pytest.approx(expected.interval)
    assert svhn["told_apart"]
    assert [row["paired"] for row in rows if row["measure"] == "accuracy"] == [False]


def test_a_run_against_itself_differs_in_nothing(tmp_path):
    write_run(tmp_path / "a")
    rows = [json.loads(line) for line in run(tmp_path / "a", tmp_path / "a", "--json").output.splitlines()]
    assert {row["difference"] for row in rows} == {0.0}
    assert not any(row["told_apart"] for row in rows)


def test_the_variants_of_one_run_are_compared(tmp_path):
    write_run(tmp_path / "a")
    done = run(tmp_path / "a", tmp_path / "a", "--variant", "dense", "--variant", "pruned")
    assert done.exit_code == 0, done.output
    assert "Second minus first in percentage points" in done.output
    assert "on the pruned network" in done.output


def test_other_inputs_are_not_paired(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    card = json.loads((tmp_path / "b" / "card.json").read_text())
    next(row for row in card["data"] if row["name"] == "test")["sha256"] = "0" * 64
    (tmp_path / "b" / "card.json").write_text(json.dumps(card))
    done = run(tmp_path / "a", tmp_path / "b")
    assert done.exit_code == 2
    assert "their test sets hold different inputs" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--head", "enrgy"], "has no detector pruned/enrgy; it has "),
        (["--variant", "a", "--variant", "b", "--variant", "c"], "--variant was given 3 times"),
        (["--in-distribution", "x.npy"], "at least one --anomalous"),
        (["--in-distribution", "x.npy", "--anomalous", "y.npy", "--head", "energy"], "are for runs"),
    ],
)
def test_mistakes_are_explained(tmp_path, arguments, message):
    write_run(tmp_path / "a")
    done = run(tmp_path / "a", tmp_path / "a", *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_detector_files_are_compared_on_given_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_detector(Path("a.onnx"))
    write_detector(Path("b.onnx"))
    random = np.random.default_rng(0)
    np.save("usual.npy", random.integers(0, 98, (50, 4, 5, 3)).astype(np.uint8))
    np.save("far.npy", random.integers(90, 250, (50, 4, 5, 3)).astype(np.uint8))
    done = run("a.onnx", "b.onnx", "--in-distribution", "usual.npy", "--anomalous", "far.npy", "--json")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.output.splitlines()]
    assert [(row["measure"], row["dataset"]) for row in rows] == [
        ("AUROC", "far"), ("FPR95", "far"), ("false alarms", "test"), ("detected", "far"),
    ]  # fmt: skip
    assert {row["difference"] for row in rows} == {0.0}


def test_a_single_anomaly_tells_no_runs_apart():
    usual = np.linspace(0, 1, 200)
    runs = [
        Contestant(name, Judged.of(usual, usual > 1), {"x": Judged.of([s], [True])}) for name, s in (("a", 0), ("b", 2))
    ]
    auroc_row, _ = _separation(*runs, 0)
    assert auroc_row.difference == pytest.approx(1, abs=0.01)
    assert not auroc_row.told_apart
