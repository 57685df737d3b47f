"""A recipe that asks for INT8: accepted and used where it is faster, refused with its numbers where it is not."""

from __future__ import annotations

from importlib import import_module

import onnx
import pytest

from sparsense.benchmark.card import load_card
from sparsense.benchmark.latency import Latency
from sparsense.detector import verify
from sparsense.pipeline import run_recipe
from sparsense.sweep.candidates import candidates

CHANGES = {
    "sensitivity.samples": 40,
    "prune": {"sparsity": 0.25, "align": None},
    "batch_norm.samples": 100,
    "finetune": None,
    "heads": ["energy", "sensnorm", "mahalanobis", {"name": "react"}],
    "fit.samples": 100,
    "data.calibration.limit": 59,
    "data.validation_anomalies": {"source": "inverted_digits", "limit": 40},
    "precision": {"name": "int8", "accuracy": 0.5, "auroc": 0.5},
    "robustness": {"samples": 10, "attacks": [{"name": "fgsm", "radii": [0.02]}]},
}


@pytest.fixture(scope="module", params=["faster", "slower"])
def run(request, recipe, tmp_path_factory):
    """Whether INT8 is faster depends on the machine, so a clock says it; everything else is as it is."""
    ratio = 0.5 if request.param == "faster" else 2.0

    def clock(calls, *, rounds):
        found = Latency(1.0, (1.0, 1.0), 1.0, ratio, (ratio, ratio), request.param, rounds, 1)
        return dict.fromkeys(calls, found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("sparsense.quantise.judge"), "compare_latency", clock)
        folder = run_recipe(recipe(CHANGES), output=tmp_path_factory.mktemp(request.param) / "run")
    return request.param, folder, load_card(folder / "card.json")


def kernels(file):
    return {t.data_type for t in onnx.load(file).graph.initializer if len(t.dims) == 4}


def test_int8_is_used_where_it_is_faster_and_by_heads_without_gradients(run):
    speed, folder, card = run
    used = {(row.variant, row.head): row.precision for row in card.detectors}
    int8 = "int8" if speed == "faster" else "float32"
    assert used == {
        ("dense", "energy"): "float32",
        ("dense", "sensnorm"): "float32",
        ("dense", "mahalanobis"): "float32",
        ("dense", "react"): "float32",
        ("pruned", "energy"): int8,
        ("pruned", "sensnorm"): "float32",
        ("pruned", "mahalanobis"): int8,
        ("pruned", "react"): "float32",  # asks for the weights of the last layer
    }
    assert (onnx.TensorProto.INT8 in kernels(folder / "detector.onnx")) is (speed == "faster")
    assert onnx.TensorProto.INT8 not in kernels(folder / "others/pruned-sensnorm.onnx")


def test_the_card_says_what_was_measured_and_why(run):
    speed, folder, card = run
    found = card.quantisation
    assert found.accepted is (speed == "faster")
    assert found.heads == (["energy", "mahalanobis"] if found.accepted else [])
    assert ("react stays in float32: reading the last fully connected layer" in found.words) is found.accepted
    assert found.bytes[1] < 0.7 * found.bytes[0]
    assert found.auroc is not None
    assert ("INT8 accepted" if found.accepted else "INT8 refused: it is slower") in (folder / "report.md").read_text()


def test_nothing_is_decided_by_the_test_set(run):
    """Accuracies are shares of the 59 calibration samples, which no share of the 80 that are tested can be."""
    _, _, card = run
    for share in card.quantisation.accuracy:
        assert 59 * share == pytest.approx(round(59 * share), abs=1e-9)
        assert 0 < share < 1


def test_each_detector_has_the_accuracy_of_its_own_network(run):
    speed, _, card = run
    rows = {row.stage: row.accuracy for row in card.accuracy if row.variant == "pruned"}
    found = {one.head: one for one in candidates(card) if one.variant == "pruned"}
    assert ("int8" in rows) is (speed == "faster")
    assert found["sensnorm"].accuracy == rows["exported"]
    assert found["energy"].accuracy == rows["int8" if speed == "faster" else "exported"]
    assert found["energy"].precision == ("int8" if speed == "faster" else "float32")


def test_the_file_stands_up_to_its_own_verification(run):
    _, folder, _ = run
    rows = verify(folder / "detector.onnx")
    assert rows
    assert all(row["error"] <= 1e-5 for row in rows)


def test_attacks_leave_out_what_has_no_slope(run):
    speed, _, card = run
    heads = {row.head for row in card.robustness if row.variant == "pruned"}
    assert heads == {None, "sensnorm", "react"} | ({"energy", "mahalanobis"} if speed == "slower" else set())
