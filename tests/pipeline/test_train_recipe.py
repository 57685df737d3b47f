"""Training as the first step of a run: the file that is shipped scores with the trained network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sparsense.benchmark.card import load_card
from sparsense.benchmark.summary import summary
from sparsense.data import SOURCES
from sparsense.errors import GraphError, InputError, RecipeError, TrainingError
from sparsense.networks import load_checkpoint, load_network
from sparsense.pipeline import run_recipe
from sparsense.pipeline.data import load_data
from sparsense.pipeline.train import train_recipe, trained_row
from sparsense.recipe.load import read_recipe
from sparsense.recipe.names import check_names
from sparsense.runtime import ExportedDetector
from sparsense.training.initial import open_network
from sparsense.training.run import make_train_run
from sparsense.training.settings import TrainingSettings

ZEROS = "{source: digits, split: %s, limit: 30, options: {classes: [0], size: 28}}"
RECIPE = f"""
name: tiny
network: {{source: gradcon_autoencoder, weights: null}}
data:
  train: {ZEROS % "train"}
  calibration: {ZEROS % "calibration"}
  test: {ZEROS % "test"}
  anomalies:
    ones: {{source: digits, split: test, limit: 20, options: {{classes: [1], size: 28}}}}
train:
  {{epochs: 2, batch_size: 10, optimizer: adam, learning_rate: 1e-3, weight_decay: 0, validation: 0.2, select: val_loss,
   objective: {{name: gradcon}}}}
sensitivity: {{loss: reconstruction, samples: 20}}
prune: null
finetune: null
batch_norm: null
heads: [gradcon]
fit: {{samples: 30}}
calibrate: {{false_alarm_rate: 0.1}}
benchmark: null
"""


def recipe(**changes):
    return check_names(read_recipe(RECIPE, changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return run_recipe(recipe(), output=tmp_path_factory.mktemp("run") / "tiny")


def zeros(split, digit=0, count=30):
    return SOURCES["digits"](split, classes=[digit], limit=count, seed=0, size=28)


def test_a_run_trains_as_sparsense_train_does(folder, tmp_path):
    weights = load_file(train_recipe(recipe(), output=tmp_path))
    network = load_checkpoint(folder)
    found = network.module.state_dict() | {f"remembered/{name}": mean for name, mean in network.remembered.items()}
    assert weights.keys() == found.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, weights[name]), name
    assert (folder.parent / "tiny.csv").read_text() == (tmp_path / "tiny.csv").read_text()
    assert not (folder.parent / ".tiny.state").exists()
    assert not (folder.parent / ".tiny.training").exists()
    assert load_card(folder / "card.json").parity[0].head == "gradcon"


def test_the_card_and_the_summary_say_which_epoch_was_kept_and_why(folder):
    card = load_card(folder / "card.json")
    rows = [line.split(",") for line in (folder.parent / "tiny.csv").read_text().splitlines()[1:]]
    assert card.trained.losses == pytest.approx([float(row[2]) for row in rows], abs=1e-6)
    assert card.trained.values == pytest.approx([float(row[3]) for row in rows], abs=1e-6)
    assert (card.trained.select, card.trained.uses_labels, card.trained.held_out) == ("val_loss", False, 6)
    assert card.trained.epoch == 1 + int(np.argmin(card.trained.values))
    words = f"epoch {card.trained.epoch} is kept, after which the objective was smallest on 6 held-out training samples"
    assert words in summary(card)
    assert words in (folder / "report.md").read_text()


def test_deployed_gradcon_scores_are_those_of_a_loop_at_any_batch_size(folder):
    module = load_checkpoint(folder / "network.safetensors").module.double()
    decoder = [part.weight for part in module.decoder if hasattr(part, "weight")]

    def gradients(image):
        x = torch.from_numpy(image[None].transpose(0, 3, 1, 2) / 255)
        loss = ((module(x) - x) ** 2).mean()
        return loss.item(), [g.numpy().ravel() for g in torch.autograd.grad(loss, decoder)]

    rows = [gradients(image)[1] for image in zeros("train").inputs]
    means = [np.mean([row[layer] for row in rows], 0) for layer in range(4)]
    images = np.concatenate([zeros("test", count=5).inputs, zeros("test", 1, count=5).inputs])
    expected = []
    for image in images:
        loss, found = gradients(image)
        cosines = [g @ m / np.linalg.norm(g) / np.linalg.norm(m) for g, m in zip(found, means, strict=True)]
        expected.append(loss - 0.12 * np.mean(cosines))
    detector = ExportedDetector(folder / "detector.onnx")
    for size in (1, 3, 10):
        scores = np.concatenate([detector(images[start : start + size]).score for start in range(0, 10, size)])
        np.testing.assert_allclose(scores, expected, rtol=1e-5)


def trained_scores(weights: Path, images) -> list[float]:
    """L - beta cos with the means that lie beside the weights, by a loop in float64."""
    tensors = load_file(weights)
    module = load_network("gradcon_autoencoder", weights=weights).module.double()
    layers = {name: w for name, w in module.named_parameters() if name.startswith("decoder") and w.ndim > 1}
    means = [tensors[f"remembered/{name}"].double() for name in layers]
    scores = []
    for image in images:
        x = torch.from_numpy(image[None].transpose(0, 3, 1, 2) / 255)
        loss = ((module(x) - x) ** 2).mean()
        found = torch.autograd.grad(loss, list(layers.values()))
        cosines = [torch.cosine_similarity(g.ravel(), m.ravel(), 0) for g, m in zip(found, means, strict=True)]
        scores.append((loss - 0.12 * torch.stack(cosines).mean()).item())
    return scores


def test_the_mean_gradients_of_training_are_deployed_where_they_are_asked_for(tmp_path):
    published = {"heads": [{"name": "gradcon", "options": {"reference": "training"}}]}
    folder = run_recipe(recipe(**published), output=tmp_path / "tiny")
    weights = train_recipe(recipe(), output=tmp_path)
    images = np.concatenate([zeros("test", count=4).inputs, zeros("test", 1, count=4).inputs])
    found = ExportedDetector(folder / "detector.onnx")(images).score
    np.testing.assert_allclose(found, trained_scores(weights, images), rtol=1e-5)
    assert load_checkpoint(folder).remembered.keys() == {f"decoder.{layer}.weight" for layer in (0, 2, 4, 6)}
    again = recipe(**published, **{"train": None, "network.weights": str(weights)})
    later = run_recipe(again, output=tmp_path / "later")
    np.testing.assert_allclose(ExportedDetector(later / "detector.onnx")(images).score, found, rtol=1e-6)


def test_mean_gradients_that_no_training_has_left_are_refused(tmp_path):
    published = {"heads": [{"name": "gradcon", "options": {"reference": "training"}}]}
    with pytest.raises(GraphError, match=r"for layer 'decoder\.0', and there is none; train .*objective gradcon"):
        run_recipe(recipe(**published, **{"train.objective": "reconstruction"}), output=tmp_path / "tiny")
    pruned = {"prune": {"criterion": "magnitude", "structure": "channel", "sparsity": 0.25}}
    with pytest.raises(GraphError, match=r"that of the training is of \[64, 64, 4, 4\]; train \(after pruning"):
        run_recipe(recipe(**published, **pruned), output=tmp_path / "tiny")
    tuned = {"finetune": {"epochs": 1, "batch_size": 10, "objective": "gradcon"}}
    folder = run_recipe(recipe(**published, **pruned, **tuned), output=tmp_path / "tiny")
    assert {row.variant for row in load_card(folder / "card.json").parity} == {"dense", "pruned"}


def test_a_training_that_diverges_leaves_its_last_good_weights_beside_the_output(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingSettings, "rates", lambda _self, steps: [1e-3, *[1e18] * (steps - 1)])
    changes = {"train.optimizer": "sgd", "train.batch_size": 30}  # one step an epoch
    last = tmp_path / "tiny.last-good.safetensors"
    with pytest.raises(TrainingError, match=r"the best good epoch \(1 of 1, by val_loss\) are kept in") as told:
        run_recipe(recipe(**changes, **{"train.objective": "reconstruction"}), output=tmp_path / "tiny")
    assert str(last) in str(told.value)
    left = load_network("gradcon_autoencoder", weights=last)  # refused if its answers are no numbers
    assert left.parameters == 230_721
    assert not (tmp_path / "tiny").exists()
    assert not (tmp_path / ".tiny.state").exists()


def test_outliers_that_are_also_measured_on_are_refused(tmp_path):
    inside = {"source": "digits", "split": "test", "limit": 5, "options": {"classes": [1], "size": 28}}
    for name in ("outliers", "validation_anomalies"):
        with pytest.raises(InputError, match=rf"5 samples of data\.{name} are also in data\.ones"):
            train_recipe(recipe(**{f"data.{name}": inside}), output=tmp_path)
    own = {"source": "digits", "split": "test", "limit": 5, "options": {"classes": [0], "size": 28}}
    with pytest.raises(InputError, match=r"samples of data\.outliers are also in data\.test"):
        train_recipe(recipe(**{"data.outliers": own}), output=tmp_path)
    assert not list(tmp_path.iterdir())


def test_classes_that_the_split_lacks_are_refused(tmp_path):
    absent = {"source": "digits", "split": "train", "options": {"classes": [10], "size": 28}}
    with pytest.raises(InputError, match=r"classes=\[10\]: dataset 'digits/train' has the labels 0, 1, 2"):
        train_recipe(recipe(**{"data.train": absent}), output=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.validation": 0.0}, "val_loss needs held-out samples"),
        ({"train.select": "last"}, "patience and validation are for select"),
        ({"train.select": "val_auroc"}, "needs data.validation_anomalies"),
        ({"train.objective": "greg"}, "unknown training objective 'greg'"),
        ({"train.objective": {"name": "gradcon", "options": {"alfa": 1}}}, "Did you mean 'alpha'"),
        ({"train.objective": "energy_fine_tuning"}, r"name them in data\.outliers"),
    ],
)
def test_what_a_recipe_asks_for_in_vain_is_refused_before_anything_runs(changes, message):
    with pytest.raises(RecipeError, match=message):
        recipe(**changes)


def test_a_run_in_several_processes_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"train\.devices: a run trains in one process"):
        run_recipe(recipe(**{"train.devices": 2}), output=tmp_path / "tiny")


def test_an_epoch_chosen_by_labels_says_so_in_words():
    anomalies = {"source": "digits", "split": "calibration", "limit": 10, "options": {"classes": [1], "size": 28}}
    changes = {"data.validation_anomalies": anomalies, "train.select": "val_auroc"}
    asked = recipe(**changes)
    network = open_network(asked.network, None, asked.export.layout)
    training = make_train_run(network, asked, load_data(asked, None).samples())
    while not training.done:
        training.epoch()
    row = trained_row(training)
    assert row.uses_labels
    assert (len(row.losses), len(row.values), row.epoch) == (2, 2, training.selection.best_epoch + 1)
    assert row.words.startswith(f"The network was trained for 2 epochs (mean loss {row.losses[0]:.4g} in the first, ")
    assert row.words.endswith("6 held-out training samples were told best from known anomalies (labels were used)")


def test_an_epoch_chosen_by_labels_says_so_on_the_card(tmp_path):
    import json

    anomalies = {"source": "digits", "split": "calibration", "limit": 10, "options": {"classes": [1], "size": 28}}
    changes = {"data.validation_anomalies": anomalies, "train.select": "val_auroc"}
    weights = train_recipe(recipe(**changes), output=tmp_path)
    card = json.loads(weights.with_suffix(".json").read_text())
    assert card["uses_labels"] is True
    assert card["epoch"] == 1 + int(np.argmax(card["values"]))
    assert card["data"]["validation_anomalies"]["count"] == 10
