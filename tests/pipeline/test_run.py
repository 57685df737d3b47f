"""The main job, on a recipe small enough to run in seconds: everything that a user finds in the folder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from sparsense.benchmark.card import load_card
from sparsense.benchmark.score_file import ScoreKey, read_scores
from sparsense.data import SOURCES
from sparsense.detector import verify
from sparsense.detector.seen import CALIBRATED, FITTED
from sparsense.errors import ExportError, InputError, UnknownNameError
from sparsense.graph.load import default_opset
from sparsense.networks import load_checkpoint
from sparsense.pipeline import run_recipe
from sparsense.recipe.schema import Recipe
from sparsense.runtime import ExportedDetector
from sparsense.sensitivity import SensitivityRecord


@pytest.fixture(scope="module")
def folder(recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_recipe(recipe(), output=tmp_path_factory.mktemp("run") / "tiny")


def test_the_folder_holds_what_is_promised(folder):
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "detector.onnx",
        "card.json",
        "scores.npz",
        "sensitivities.safetensors",
        "network.safetensors",
        "network.json",
        "report.html",
        "report.md",
        "others/dense-sensnorm_profile.onnx",
        "others/dense-sensnorm.onnx",
        "others/pruned-sensnorm.onnx",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_every_file_agrees_with_torch_at_every_batch_size(folder):
    for path in folder.rglob("*.onnx"):
        rows = verify(path)
        assert [row["batch"] for row in rows] == [1, 2, 7, 32]
        assert max(row["error"] for row in rows) <= 1e-5


def test_the_card_inside_the_file_is_the_card_beside_it(folder):
    inside = ExportedDetector(folder / "detector.onnx").card
    assert inside["run"] == json.loads((folder / "card.json").read_text())
    assert (inside["head"], inside["variant"], inside["name"]) == ("sensnorm_profile", "pruned", "tiny")


def test_scores_on_disk_are_those_of_the_file_and_do_not_depend_on_neighbours(folder):
    inputs = SOURCES["digits"]("test", limit=80, seed=0).inputs
    together = ExportedDetector(folder / "detector.onnx", micro_batch=32)(inputs)
    alone = ExportedDetector(folder / "detector.onnx", micro_batch=1)(inputs)
    np.testing.assert_allclose(alone.score, together.score, rtol=1e-5)
    stored = read_scores(folder / "scores.npz")[ScoreKey("pruned", "sensnorm_profile", "test")]
    np.testing.assert_allclose(together.score, stored, rtol=1e-5)
    np.testing.assert_array_equal(together.is_anomaly, together.score > np.float32(calibrated_threshold(folder)))


def calibrated_threshold(folder: Path) -> float:
    return next(
        row.threshold
        for row in load_card(folder / "card.json").calibration
        if (row.variant, row.head) == ("pruned", "sensnorm_profile")
    )


def test_the_network_is_smaller_and_still_right(folder):
    card = load_card(folder / "card.json")
    assert card.network.pruned.multiply_adds < 0.5 * card.network.dense.multiply_adds
    stages = [(row.variant, row.stage) for row in card.accuracy]
    assert stages == [
        ("dense", "as loaded"),
        ("pruned", "pruned"),
        ("pruned", "batch norm re-estimated"),
        ("pruned", "fine-tuned"),
        ("dense", "exported"),
        ("pruned", "exported"),
    ]
    accuracy = {stage: row.accuracy for stage, row in zip(stages, card.accuracy, strict=True)}
    assert accuracy["dense", "exported"] == accuracy["dense", "as loaded"] >= 0.95
    assert accuracy["pruned", "exported"] == accuracy["pruned", "fine-tuned"] > accuracy["pruned", "pruned"]


def test_widths_of_the_card_are_those_of_the_checkpoint(folder):
    network = load_checkpoint(folder / "network.safetensors")
    widths = load_card(folder / "card.json").network.pruned.widths
    assert {name: dict(network.module.named_modules())[name].weight.shape[0] for name in widths} == widths


def test_the_record_is_of_the_dense_network(folder):
    record = SensitivityRecord.load(folder / "sensitivities.safetensors")
    assert record.info.samples == 60
    dense = load_card(folder / "card.json").network.dense
    assert {name: len(record.moment(f"{name}.weight", "elasticity")) for name in dense.widths} == dense.widths


def test_the_checkpoint_loads_in_a_fresh_process_without_pickle(folder):
    program = (
        "import pickle, sys\n"
        "def refuse(*_): raise SystemExit('pickle was used')\n"
        "import torch\n"
        "from sparsense.networks import load_checkpoint\n"
        "pickle.load = pickle.loads = pickle.Unpickler = refuse\n"
        "print(load_checkpoint(sys.argv[1]).parameters)"
    )
    command = [sys.executable, "-c", program, str(folder / "network.safetensors")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(found.stdout) == load_card(folder / "card.json").network.pruned.parameters


def test_latency_refers_to_the_plain_dense_forward_pass(folder):
    rows = load_card(folder / "card.json").latency
    assert [row.verdict for row in rows if (row.variant, row.head) == ("dense", None)] == ["baseline"]
    assert len(rows) == 6


def test_a_second_run_gives_the_same_scores_and_takes_the_place_of_the_first(recipe, folder, tmp_path):
    output = tmp_path / "tiny"
    output.mkdir()
    (output / "card.json").write_text("{}")
    (output / "left-over.txt").write_text("from an earlier run")
    asked = recipe({"benchmark": None, "heads": ["sensnorm_profile"]})
    run_recipe(asked, output=output)
    assert not (output / "left-over.txt").exists()
    key = ScoreKey("pruned", "sensnorm_profile", "letters")
    np.testing.assert_array_equal(read_scores(output / "scores.npz")[key], read_scores(folder / "scores.npz")[key])


def test_without_pruning_the_dense_detector_is_the_one_to_ship(recipe, tmp_path):
    asked = recipe({"prune": None, "benchmark": None, "heads": ["energy"]})
    folder = run_recipe(asked, output=tmp_path / "dense")
    assert ExportedDetector(folder / "detector.onnx").card["variant"] == "dense"
    assert not (folder / "others").exists()


def test_files_have_the_opset_that_is_asked_for_and_hide_inputs_if_asked(recipe, tmp_path):
    asked = recipe({"benchmark": None, "heads": ["sensnorm_profile"], "export": {"opset": 18, "private": True}})
    files = list(run_recipe(asked, output=tmp_path / "old").rglob("*.onnx"))
    assert files
    assert {default_opset(onnx.load(path)) for path in files} == {18}
    for path in files:
        assert not {FITTED, CALIBRATED} & ExportedDetector(path).metadata.keys()
        assert all(row["agrees"] for row in verify(path))


def test_single_weights_are_masked_and_stay_masked(recipe, tmp_path):
    changes = {"prune.structure": "weight", "prune.round_to": None, "benchmark": None, "heads": ["energy"]}
    folder = run_recipe(recipe(changes), output=tmp_path / "masked")
    card = load_card(folder / "card.json")
    assert card.pruning.reached["sparsity"] == pytest.approx(0.5, abs=1e-3)
    weights = [p for p in load_checkpoint(folder / "network.safetensors").module.parameters() if p.ndim == 4]
    assert sum(int((w == 0).sum()) for w in weights) >= 0.5 * sum(w.numel() for w in weights)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"calibrate.false_alarm_rate": 0.001}, ValueError, "999"),
        ({"data.test.options.size": 8}, InputError, "expected uint8 samples of shape"),
        ({"network.weights": "nowhere.safetensors"}, InputError, "found it neither here nor in the data root"),
        ({"network.source": "digits_resnett"}, UnknownNameError, "Did you mean 'digits_resnet'"),
        ({"prune.ignore": ["*"]}, InputError, "no channel of the network can be removed"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(recipe, changes, error, message, tmp_path):
    asked = recipe({"heads": ["energy"], "benchmark": None, **changes})
    with pytest.raises(error, match=message):
        run_recipe(asked, output=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_detector_costs_no_fine_tuning(recipe, tmp_path):
    asked = {"heads": ["energy"], "benchmark": None, "prune.align": "none"}
    with pytest.raises(ExportError, match="with the oracle") as told:
        run_recipe(recipe({**asked, "export.tolerance": 1e-12}), output=tmp_path / "run")
    assert str(tmp_path / ".run.state") in told.value.__notes__[0]
    assert [path.name for path in tmp_path.iterdir()] == [".run.state"]
    assert (tmp_path / ".run.state" / "fine-tuning.safetensors").is_file()


def test_samples_that_are_in_two_sets_are_refused(recipe, tmp_path):
    changes = {"data.calibration": {"source": "digits", "split": "test", "options": {"seed": 1}}}
    with pytest.raises(InputError, match=r"samples of data\.calibration are also in data\.test"):
        run_recipe(recipe(changes), output=tmp_path / "run")


def test_a_folder_of_somebody_else_is_left_alone(recipe, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds other things"):
        run_recipe(recipe(), output=tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_interrupted_run_leaves_the_earlier_result(recipe, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    (output / "card.json").write_text("the earlier one")

    def interrupt(what: str, done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe(), output=output, progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".run.state", "run"]  # the same run would go on
    assert (output / "card.json").read_text() == "the earlier one"


def test_the_detector_is_one_plain_file(folder):
    model = onnx.load(folder / "detector.onnx", load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}
    assert not any(t.external_data for t in model.graph.initializer)
    assert [value.name for value in model.graph.output] == ["score", "p_value", "is_anomaly", "output"]
    first = model.graph.input[0]
    assert (first.name, first.type.tensor_type.elem_type) == ("input", onnx.TensorProto.UINT8)
    assert [d.dim_param or d.dim_value for d in first.type.tensor_type.shape.dim] == ["N", 16, 16, 1]
