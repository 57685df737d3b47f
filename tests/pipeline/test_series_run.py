"""A series, from a recipe to a file that scores its own numbers; an epoch chosen on windows from a later time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsense.data import SOURCES
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import InputError
from sparsense.networks import load_checkpoint
from sparsense.pipeline import run_recipe
from sparsense.pipeline.data import load_data
from sparsense.pipeline.run import open_network
from sparsense.recipe.load import read_recipe
from sparsense.recipe.names import check_names
from sparsense.runtime import ExportedDetector
from sparsense.training.run import hold_out, make_train_run

PART = "{source: series, split: %s, options: {path: %s, label: bad, length: 4, step: 2, classes: [%d]}}"
RECIPE = """
name: plant
network: {{source: latent_norm_table, weights: null, options: {{features: 8, hidden: [8], latent: 2}}}}
data:
  train: {train}
  calibration: {calibration}
  test: {test}
  anomalies: {{bad: {bad}}}
train: {{epochs: 3, batch_size: 20, optimizer: adam, learning_rate: 1e-3, objective: {{name: latent_norm}},
        validation: 0.1, select: val_loss}}
sensitivity: {{loss: reconstruction, samples: 40}}
prune: null
finetune: null
batch_norm: null
heads: [{{name: latent_norm, options: {{beta: 10}}}}]
fit: {{samples: 40}}
calibrate: {{false_alarm_rate: 0.1}}
benchmark: null
"""


def write_series(path: Path, factor: float = 1.0) -> Path:
    random = np.random.default_rng(0)
    marks = np.isin(np.arange(400), [40, 390])
    values = factor * (random.normal(size=(400, 2)) * [800, 0.1] + [5e4, 3])
    values[40] *= 1000  # a labelled one among the training steps
    rows = [f"{heat:.4f},{flow:.6f},{-int(mark)}" for (heat, flow), mark in zip(values, marks, strict=True)]
    path.write_text("\n".join(["heat,flow,bad", *rows]) + "\n", encoding="utf-8")
    return path


def recipe(path: Path, **changes):
    parts = {split: PART % (split, path, 0) for split in ("train", "calibration", "test")}
    return check_names(read_recipe(RECIPE.format(**parts, bad=PART % ("test", path, 1)), changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("series")
    return run_recipe(recipe(write_series(base / "plant.csv")), output=base / "run")


def test_the_file_alone_scores_the_series_own_numbers(folder, tmp_path):
    alone = tmp_path / "alone.onnx"
    alone.write_bytes((folder / "detector.onnx").read_bytes())
    detector = ExportedDetector(alone)
    lines = (folder.parent / "plant.csv").read_text().splitlines()[1:]
    steps = np.array([[float(cell) for cell in line.split(",")[:2]] for line in lines])
    known = np.delete(steps[:240], 40, 0)
    rows = steps[300:308].reshape(2, 8)  # two windows, cut by hand
    seen = (rows - np.tile(known.mean(0), 4)) / np.tile(known.std(0), 4)
    x, module = torch.from_numpy(seen), load_checkpoint(folder).module.double()
    with torch.no_grad():
        code = module.encoder(x)
        expected = (x - module.decoder(code)).norm(dim=1) + 10 * code.norm(dim=1)
    np.testing.assert_allclose(detector(rows.astype(np.float32)).score, expected, rtol=1e-3)
    assert detector(50 * rows.astype(np.float32)).is_anomaly.all()  # another level, as another file may have
    assert detector.columns[:3] == ["heat[0]", "flow[0]", "heat[1]"]
    card = Preprocessing.from_dict(json.loads(json.dumps(detector.preprocessing)))
    assert load_checkpoint(folder).preprocessing == card
    assert card.columns[0].mean == pytest.approx(known.mean(0)[0])


def test_files_scaled_by_themselves_are_refused(folder, tmp_path):
    path, other = folder.parent / "plant.csv", write_series(tmp_path / "other.csv", 50)
    changes = {"data.anomalies.bad.options.path": str(other)}
    with pytest.raises(InputError, match=r"loading data\.bad: .* encoded otherwise .* the option like"):
        load_data(recipe(path, **changes), None)
    alike = load_data(recipe(path, **changes, **{"data.anomalies.bad.options.like": str(path)}), None)
    assert alike.anomalies["bad"].columns == alike.train.columns


def test_an_epoch_is_chosen_by_windows_that_share_no_step_with_training(folder):
    made = recipe(folder.parent / "plant.csv")
    data = load_data(made, None)
    seen, unseen = hold_out(data.train, 0.1)
    assert len(unseen) == round(0.1 * len(data.train))
    assert seen.spans[:, 1].max() <= unseen.spans[:, 0].min()
    network = open_network(made.network, None, made.export.layout).for_columns(data.train.columns)
    training = make_train_run(network, made, data.samples())
    apply = network.preprocessing.apply
    assert torch.equal(training.batches.inputs, torch.from_numpy(apply(seen.inputs)))
    assert torch.equal(training.selection.held_out.inputs, torch.from_numpy(apply(unseen.inputs)))


def test_samples_that_are_no_windows_are_held_out_by_class():
    digits = SOURCES["digits"]("train")
    seen, unseen = hold_out(digits, 0.1)
    assert (len(seen), len(unseen)) == (900, 100)
    assert np.bincount(unseen.labels).min() >= 9
    with pytest.raises(
        InputError, match=r"a share of 0\.9 of 3 training samples of 'digits/train' leaves none to train"
    ):
        hold_out(digits.subset([0, 1, 2]), 0.9)
