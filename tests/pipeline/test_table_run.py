"""A table with words and gaps, from a recipe to a file that scores the table's own rows without the training data."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sparsense.cli import app
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import InputError
from sparsense.networks import load_checkpoint, load_network
from sparsense.networks.learnt_behind import read_encoding
from sparsense.pipeline import run_recipe
from sparsense.pipeline.data import load_data
from sparsense.recipe.load import read_recipe
from sparsense.recipe.names import check_names
from sparsense.runtime import ExportedDetector
from sparsense.training.reference import train_reference

NORMAL = "{source: table, split: %s, options: {path: %s, label: state, normal: good, drop: [id], classes: [%d]}}"
RECIPE = """
name: parts
network: {{source: latent_norm_table, weights: null, options: {{features: 5, hidden: [8], latent: 2}}}}
data:
  train: {train}
  calibration: {calibration}
  test: {test}
  anomalies: {{bad: {bad}}}
train: {{epochs: 3, batch_size: 20, optimizer: adam, learning_rate: 1e-3, objective: {{name: latent_norm}}}}
sensitivity: {{loss: reconstruction, samples: 40}}
prune: null
finetune: null
batch_norm: null
heads: [{{name: latent_norm, options: {{beta: 10}}}}]
fit: {{samples: 40}}
calibrate: {{false_alarm_rate: 0.1}}
benchmark: null
"""


def write_table(path: Path, rows: int = 150) -> Path:
    random = np.random.default_rng(0)
    lines = ["id,size,kind,weight,state"]
    for row in range(rows):
        size = "" if row % 7 == 3 else f"{random.normal(5e4, 800):.3f}"
        kind, bad = ["red", "green", "NA"][row % 3], row % 10 == 9
        lines.append(f"{row},{size},{kind},{random.normal():.4f},{'bad' if bad else 'good'}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def recipe(path: Path, **changes):
    parts = {split: NORMAL % (split, path, 0) for split in ("train", "calibration", "test")}
    text = RECIPE.format(**parts, bad=NORMAL % ("test", path, 1))
    return check_names(read_recipe(text, changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("table")
    return run_recipe(recipe(write_table(base / "parts.csv")), output=base / "run")


def expected_scores(folder: Path, rows: list[dict[str, str]]) -> list[float]:
    """From the training rows by hand, and the trained network in float64."""
    train = load_data(recipe(folder.parent / "parts.csv"), None).train.inputs.astype(np.float64)
    fills = np.nanmedian(train, 0)
    assert np.isnan(train[:, 0]).any()
    known = np.where(np.isnan(train), fills, train)
    mean, std = known.mean(0), known.std(0)
    features = []
    for row in rows:
        size, weight = (
            ((float(row[name]) if row[name] else fills[i]) - mean[i]) / std[i]
            for i, name in ((0, "size"), (2, "weight"))
        )
        word = "" if row["kind"] == "NA" else row["kind"]
        features.append([size, *(float(word == level) for level in ("", "green", "red")), weight])
    module = load_checkpoint(folder).module.double()
    x = torch.tensor(features, dtype=torch.float64)
    with torch.no_grad():
        code = module.encoder(x)
        return ((x - module.decoder(code)).norm(dim=1) + 10 * code.norm(dim=1)).tolist()


def test_the_file_alone_scores_words_and_gaps(folder, tmp_path):
    alone = tmp_path / "alone.onnx"
    alone.write_bytes((folder / "detector.onnx").read_bytes())
    lines = ["kind,extra,weight,size", "red,1,0.5,50100", "blue,2,-1.25,", "NA,3,0,49000.5", "green,4,2,51234.5"]
    table = tmp_path / "new.csv"
    table.write_text("\n".join(lines))
    result = CliRunner().invoke(app, ["score", str(alone), str(table), "--format", "jsonl", "--quiet"])
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["input"] for row in found] == [f"{table}:{row}" for row in range(4)]
    with table.open(newline="") as stream:
        expected = expected_scores(folder, list(csv.DictReader(stream)))
    np.testing.assert_allclose([row["score"] for row in found], expected, rtol=1e-5)


def test_the_card_and_the_checkpoint_say_how_words_and_gaps_are_encoded(folder):
    detector = ExportedDetector(folder / "detector.onnx")
    assert detector.columns == ["size", "kind", "weight"]
    assert detector.input_shape == (3,)
    preprocessing = Preprocessing.from_dict(json.loads(json.dumps(detector.preprocessing)))
    assert preprocessing.columns[1].levels == ("", "green", "red")
    assert "1 = 'green', 2 = 'red'" in detector.preprocessing["columns"][1]["meaning"]
    assert load_checkpoint(folder).preprocessing == preprocessing
    rows = np.array([[np.nan, 1, 0]], np.float32)
    assert np.isfinite(detector(rows).score).all()
    with pytest.raises(InputError, match="input 0 holds infinity"):
        detector(np.array([[np.inf, 1, 0]], np.float32))
    with pytest.raises(InputError, match=r"float32 of shape \[N, 3\] \(size, kind, weight\)"):
        detector(np.zeros((1, 5), np.float32))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size,weight\n1,2\n", "it has no column 'kind'; it has size, weight"),
        ("size,kind,weight\nmuch,red,2\n", "column 'size', row 1: expected a finite number, found 'much'"),
        ("size,kind,weight\n1,red\n", "row 1: expected 3 values, found 2"),
        ("", "expected a header"),
    ],
)
def test_tables_that_do_not_fit_are_refused(folder, text, message, tmp_path):
    (tmp_path / "new.csv").write_text(text)
    result = CliRunner().invoke(app, ["score", str(folder / "detector.onnx"), str(tmp_path / "new.csv")])
    assert result.exit_code != 0
    assert message in " ".join(result.stderr.split())


def test_a_network_of_another_width_is_refused_by_the_names_of_the_features(folder, tmp_path):
    path = folder.parent / "parts.csv"
    with pytest.raises(InputError, match=r"3 columns become 5 numbers \(size, kind=, kind=green, kind=red, weight\)"):
        run_recipe(recipe(path, **{"network.options.features": 3}), output=tmp_path / "run")


@pytest.mark.parametrize("split", ["train", "calibration", "test"])
def test_rows_labelled_anomalous_are_refused_where_normal_ones_belong(split, folder):
    path, key = folder.parent / "parts.csv", f"data.{split}.options.classes"
    with pytest.raises(InputError, match=rf"loading data\.{split}: expected normal samples, found \d+ of \d+ labelled"):
        load_data(recipe(path, **{key: [0, 1]}), None)
    by_name = load_data(recipe(path, **{key: ["normal"]}), None)
    assert not by_name.train.labels.any()


def test_labels_of_any_meaning_are_no_anomalies(folder):
    numbered = folder.parent / "numbered.csv"
    text = (folder.parent / "parts.csv").read_text()
    numbered.write_text(text.replace(",bad\n", ",1\n").replace(",good\n", ",0\n"))
    changes = {f"data.{part}.options.normal": None for part in ("train", "calibration", "test")}
    made = recipe(numbered, **changes, **{"data.train.options.classes": [0, 1], "data.anomalies": {}})
    assert load_data(made, None).train.labels.any()  # such as classes to tell apart


def test_sets_that_are_encoded_otherwise_are_refused(folder, tmp_path):
    path, other = folder.parent / "parts.csv", write_table(tmp_path / "other.csv", rows=120)
    changes = {"data.test.options.path": str(other)}
    with pytest.raises(InputError, match=r"loading data\.test: its words and numbers are encoded otherwise"):
        load_data(recipe(path, **changes), None)
    like = {**changes, "data.test.options.like": str(path), "data.test.options.shares": [0.6, 0.2, 0.2]}
    assert load_data(recipe(path, **like), None).test.columns


@pytest.mark.parametrize("origin", ["trained", "run"])
def test_weights_know_the_encoding_that_they_learnt_behind(origin, folder, tmp_path):
    """Numbers scaled by another table, or words at other places, are not what the network was trained for."""
    path, other = folder.parent / "parts.csv", write_table(tmp_path / "other.csv", rows=120)
    weights = folder / "network.safetensors"
    if origin == "trained":
        weights = train_reference(recipe(path), tmp_path)
    again = {"network.weights": str(weights), "train": None}
    found = load_network("latent_norm_table", weights=weights, options={"features": 5, "hidden": [8], "latent": 2})
    assert found.preprocessing == load_checkpoint(folder).preprocessing
    everywhere = {f"data.{part}.options.path": str(other) for part in ("train", "calibration", "test")}
    everywhere |= {"data.anomalies.bad.options.path": str(other)}
    with pytest.raises(InputError, match=r"another encoding of its table: there 'size'.*; here 'size'.*like"):
        run_recipe(recipe(path, **again, **everywhere), output=tmp_path / "run")
    run_recipe(recipe(path, **again), output=tmp_path / "run")
    assert load_checkpoint(tmp_path / "run").preprocessing == load_checkpoint(folder).preprocessing


def test_a_broken_encoding_in_a_file_of_weights_is_told(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(1)}, path, {"columns": '[{"name": "size", "std": "wide"}]'})
    with pytest.raises(InputError, match=r"weights.safetensors: its metadata 'columns'.*0\.std: .*number"):
        read_encoding(path)


def test_rows_with_words_and_gaps_are_judged_in_pairs(folder, tmp_path):
    changes = {"heads": [{"name": "latent_norm", "options": {"beta": 10}, "group": 2}]}
    pairs = run_recipe(recipe(folder.parent / "parts.csv", **changes), output=tmp_path / "run")
    lines = ["kind,weight,size", "red,0.5,50100", "green,-1.25,", "NA,0,49000.5", "green,2,51234.5"]
    table = tmp_path / "new.csv"
    table.write_text("\n".join(lines))
    found = {}
    for name, file in (("alone", folder), ("pairs", pairs)):
        result = CliRunner().invoke(app, ["score", str(file / "detector.onnx"), str(table), "--format", "jsonl", "-q"])
        assert result.exit_code == 0, result.output
        found[name] = [json.loads(line)["score"] for line in result.stdout.splitlines()]
    np.testing.assert_allclose(found["pairs"], np.reshape(found["alone"], (2, 2)).mean(1), rtol=1e-5)
