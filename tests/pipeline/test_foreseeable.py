"""What would fail after a training is refused before its first step."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from test_train_recipe import recipe
from torch import nn

from sparsense.data import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import fit_head, try_head
from sparsense.errors import CalibrationError, GraphError, InputError, RecipeError, TrainingError, UnsupportedLayerError
from sparsense.graph import forward_graph, load_graph
from sparsense.heads import HEADS
from sparsense.networks import Network
from sparsense.pipeline import run_recipe
from sparsense.recipe.load import read_recipe
from sparsense.to_onnx import export_forward

CLASSIFIER = {
    "network": {"source": "mnist_convnet", "weights": None}, "train.objective": None, "sensitivity.loss": "energy",
    "heads": ["energy"],
}  # fmt: skip
VARIATIONAL = {"network": {"source": "gradcon_vae", "weights": None}, "prune": {"criterion": "magnitude"}}
ABSENT = {"prune": {"criterion": "magnitude"}, "finetune": {"epochs": 1, "accelerator": "mps"}}
PLAIN_AFTER_GRADCON = {"train.objective": "gradcon", "train.validation": 0.0, "train.select": "last", "prune": {},
                       "finetune": {"epochs": 1, "objective": "reconstruction"}}  # fmt: skip
OTHER = {"prune": {"criterion": "magnitude"}, "finetune": {"epochs": 1, "objective": "cross_entropy"}}


def head(name, **options):
    return {"heads": [{"name": name, "options": options}]}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"calibrate.false_alarm_rate": 0.03}, CalibrationError, "needs at least 33 calibration samples; got 30"),
        ({"heads": ["energy"]}, InputError, "head 'energy': it is for a classifier, and this network is a reconstr"),
        ({"heads": ["fusion"]}, InputError, "head 'fusion': it is for a classifier, and this network is a reconstr"),
        ({"sensitivity.loss": "cross_entropy"}, InputError, "a loss over classes needs logits"),
        ({"precision": "int8"}, InputError, "precision: int8 is judged by accuracy"),
        (OTHER, TrainingError, "objective 'cross_entropy' is for a classifier network"),
        (head("reconstruction_error", metric="ssim", window=30), GraphError, "with sides of at least 30, found"),
        (head("gradcon", layers=["nope.*"]), GraphError, "nope"),
        (
            head("gradcon", reference="training") | PLAIN_AFTER_GRADCON,
            GraphError,
            "there is none; train .after",
        ),
        ({"network.preprocessing": {"mean": [0.5], "std": [0.5], "dtype": "float32"}}, InputError, "float32"),
        ({"prune": {"structure": "channel", "sparsity": 0.99, "floor": 0.3}}, InputError, "at most 0.* can go"),
        pytest.param(
            ABSENT,
            TrainingError,
            "training with accelerator 'mps' and 1 of its devices: .* not available",
            marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="it is there"),
        ),
        (VARIATIONAL, UnsupportedLayerError, "to leave its group alone, ignore 'posterior'"),
        ({**CLASSIFIER, "calibrate.per_class": "strict"}, CalibrationError, "at least 9 samples of each of 10 predict"),
    ],
)
def test_what_cannot_end_well_is_refused_before_training(changes, error, message, tmp_path):
    told = []
    with pytest.raises(error, match=message):
        run_recipe(recipe(**changes), output=tmp_path / "tiny", progress=lambda what, *_: told.append(what))
    assert not told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["train.objective", "finetune.objective"])
def test_values_of_objectives_are_tried_when_the_recipe_is_read(key):
    changes = {"finetune": {"epochs": 1}, key: {"name": "gradcon", "options": {"alpha": -1}}}
    with pytest.raises(RecipeError, match=rf"{key}\.options: .*gradcon needs alpha, beta and kl >= 0; got -1"):
        recipe(**changes)


def test_values_of_objectives_are_tried_before_a_run_of_a_recipe_that_was_not_checked(tmp_path):
    good, bad = ({"name": "distillation", "options": {"temperature": value}} for value in (4.0, 0.0))
    assert recipe(finetune={"epochs": 1, "objective": good}).finetune.objective.options == {"temperature": 4.0}
    unchecked = read_recipe(recipe().to_yaml(), {"finetune": {"epochs": 1, "objective": bad}})
    with pytest.raises(RecipeError, match=r"finetune\.objective\.options: .*temperature > 0"):
        run_recipe(unchecked, output=tmp_path / "tiny")
    assert not list(tmp_path.iterdir())


def test_what_untrained_weights_do_not_show_yet_is_no_refusal():
    """Behind a last layer of zeros no layer has a gradient before the training, and a head asks for directions."""
    torch.manual_seed(0)
    module = nn.Sequential(OrderedDict(first=nn.Linear(6, 8), act=nn.ReLU(), last=nn.Linear(8, 3)))
    nn.init.zeros_(module.last.weight)
    network = Network(module.eval(), Preprocessing("ND", "float32", 1.0, (0.0,), (1.0,)), (6,), "classifier", "own")
    graph = forward_graph(load_graph(export_forward(network)), network.preprocessing)
    rows = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    few, see = Dataset("rows", rows, np.arange(12) % 3), network.preprocessing
    try_head(graph, HEADS["low_dimensional_gradient"](layers=["first"]), few, preprocessing=see)
    with pytest.raises(InputError, match="directions of gradients: all of them are zero"):
        fit_head(graph, HEADS["low_dimensional_gradient"](layers=["first"]), few, preprocessing=see)
    with pytest.raises(GraphError, match="nope"):
        try_head(graph, HEADS["low_dimensional_gradient"](layers=["nope"]), few, preprocessing=see)
