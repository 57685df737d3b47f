"""Samples that nothing learns from are not called training samples."""

from __future__ import annotations

import jobs
import pytest

from sparsense.benchmark.card import load_card
from sparsense.pipeline import run_recipe
from sparsense.pipeline.data import load_data
from sparsense.pipeline.uses import trainings, unused_sets
from sparsense.training.initial import open_network

OTHERS = {"source": "letters", "limit": 30}
SETS = {"data.outliers": OTHERS, "data.validation_anomalies": {"source": "noisy_digits", "limit": 30}}
TUNING = {"epochs": 1, "batch_size": 32}
CHOSEN = {"epochs": 1, "validation": 0.1, "select": "val_auroc"}


@pytest.mark.parametrize(
    ("changes", "unused"),
    [
        ({}, ["outliers", "validation_anomalies"]),
        ({"finetune": TUNING}, ["outliers", "validation_anomalies"]),
        ({"finetune": TUNING | {"objective": "outlier_exposure"}}, ["validation_anomalies"]),
        ({"finetune": TUNING | {"objective": "outlier_exposure"}, "prune": None}, ["outliers", "validation_anomalies"]),
        ({"train": CHOSEN}, ["outliers"]),
        ({"train": CHOSEN | {"objective": "energy_fine_tuning"}}, []),
        ({"precision": "int8"}, ["outliers"]),
    ],
)
def test_sets_that_no_part_of_a_run_uses(changes, unused):
    made = jobs.recipe(SETS | changes)
    assert [name for name, _ in unused_sets(made)] == unused
    assert len(trainings(made)) == ("train" in changes) + ("finetune" in changes and "prune" not in changes)
    roles = {row.name: row.role for row in load_data(made, None).rows(unused)}
    assert {name for name, role in roles.items() if role == "unused"} == set(unused)
    assert list(unused_sets(jobs.recipe(changes | {"finetune": None, "train": None}))) == []


def test_the_report_says_so(tmp_path):
    changes = {"data.outliers": OTHERS, "data.anomalies": {"noise": {"source": "noisy_digits", "limit": 30}},
               "prune": None, "heads": ["energy"], "calibrate.false_alarm_rate": 0.2, "benchmark": None}  # fmt: skip
    folder = run_recipe(jobs.recipe(changes), output=tmp_path / "run")
    rows = {row.name: row.role for row in load_card(folder / "card.json").data}
    assert rows["outliers"] == "unused"
    told = "Not used: data.outliers, since no objective of this run learns from outliers."
    assert told in (folder / "report.md").read_text(encoding="utf-8")


def test_the_input_has_the_layout_of_the_preprocessing_unless_another_is_asked():
    def layout(**changes):
        made = jobs.recipe(changes)
        return open_network(made.network, None, made.export.layout).preprocessing.layout

    channels_first = {"network.preprocessing": {"layout": "NCHW", "mean": [0.5], "std": [0.5]}}
    assert layout() == "NHWC"
    assert layout(**channels_first) == "NCHW"
    assert layout(**channels_first, **{"export.layout": "NHWC"}) == "NHWC"
