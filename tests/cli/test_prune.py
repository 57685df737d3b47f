"""`sparsense prune` as it is typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sparsense.cli import app
from sparsense.cli.prune import harmless
from sparsense.pipeline.analysis import Analysis, Row

RECIPE = """
name: tiny
network: {source: digits_resnet}
data:
  train: {source: digits, split: train, limit: 60}
  calibration: {source: digits, split: calibration, limit: 20}
  test: {source: digits, split: test, limit: 20}
sensitivity: {samples: 20}
prune: {structure: weight, sparsity: 0.5}
batch_norm: null
finetune: null
benchmark: null
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["prune", "r.yaml", *arguments])


def test_it_prunes_and_says_what_was_reached(folder: Path) -> None:
    result = call()
    assert result.exit_code == 0, result.output
    *told, last = result.stdout.splitlines()
    assert Path(last) == Path("exported/tiny-pruned")
    assert told[:2] == ["asked: 50% of the weights", "reached: sparsity 0.5"]
    assert "dense, as loaded: accuracy" in result.stdout
    assert (folder / "exported/tiny-pruned/network.safetensors").is_file()


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    result = call("--dry-run", "--set", "prune.structure=channel")
    assert result.exit_code == 0, result.output
    assert "left alone because" in result.stdout
    assert [path.name for path in folder.iterdir()] == ["r.yaml"]


def test_an_analysis_says_what_each_layer_can_lose(folder: Path) -> None:
    result = call("--analyse", "--output", "a")
    assert result.exit_code == 0, result.output
    assert "20 held-out training samples: loss" in result.stdout
    assert sorted(path.name for path in (folder / "a").iterdir()) == ["analysis.html", "analysis.json"]
    assert result.stdout.splitlines()[-1] == "a"


def test_both_looks_at_once_are_refused() -> None:
    result = call("--dry-run", "--analyse")
    assert result.exit_code == 2
    assert "--dry-run looks at the network alone" in result.output


def test_a_typo_in_a_key_is_answered_with_the_nearest_one() -> None:
    result = call("--set", "prune.speedupp=2.0")
    assert result.exit_code == 2
    assert "prune.speedupp: unknown key. Did you mean 'speedup'?" in result.output


def analysis(accuracy: float | None) -> Analysis:
    found = None if accuracy is None else (0.9, 0.895, 0.5)
    row = Row(name="a", layers=("a", "b"), size=4, ratios=(0.1, 0.5, 0.9), loss=(1.0, 1.2, 1.05), accuracy=found)
    return Analysis(
        structure="weight", criterion="magnitude", network_sha256="", data_sha256="", samples=7,
        loss=1.0, accuracy=accuracy, rows=(row,),
    )  # fmt: skip


def test_what_costs_almost_nothing() -> None:
    assert harmless(analysis(0.9)).splitlines()[-1] == "   50%  a, b"
    assert harmless(analysis(None)).splitlines()[-1] == "   90%  a, b"
