"""Detectors that judge groups of inputs as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from sparsense.cli import app
from sparsense.detector import AttachSettings, attach_to_file, fit_head, recalibrate, verify
from sparsense.detector.grouped import grouped
from sparsense.detector.groups import group_inputs, single_inputs
from sparsense.errors import CalibrationError, InputError
from sparsense.heads import make_head
from sparsense.oracles import oracle_scores
from sparsense.runtime import ExportedDetector
from tiny_classifier import tiny_data, tiny_graph, tiny_network, tiny_proto

SIZE = 3
SENSNORM: tuple[dict[str, Any], ...] = (
    {},
    {"loss": "cross_entropy", "p": 2},
    {"reference": "none", "signed": False},
    {"structure": "channel"},
    {"sensitivity": "crop", "p": 2},
)


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    onnx.save(tiny_proto(), tmp_path / "model.onnx")
    attach(tmp_path)
    return tmp_path / "detector.onnx"


def attach(folder: Path, head: str = "sensnorm", **settings: Any) -> dict[str, Any]:
    return attach_to_file(
        folder / "model.onnx",
        make_head(head, {}),
        folder / "detector.onnx",
        fit=tiny_data("fit", 60, seed=0),
        calibration=tiny_data("calibration", 100, seed=2),
        preprocessing=tiny_network().preprocessing,
        settings=AttachSettings(**({"group": SIZE} | settings)),
    )


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("options", SENSNORM, ids=str)
def test_sensnorm_averages_gradients_before_the_norm_as_torch_does(options: dict[str, Any]) -> None:
    network, preprocessing = tiny_graph(), tiny_network().preprocessing
    inputs = group_inputs(tiny_data("other", 24, seed=3).inputs, SIZE)
    scored = fit_head(
        network, make_head("sensnorm", options), tiny_data("fit", 60, seed=0), preprocessing=preprocessing
    )
    found = grouped(network, scored, SIZE)
    np.testing.assert_allclose(found.scores(inputs), oracle_scores(found, tiny_network(), inputs), rtol=1e-4)
    alone = scored.scores(single_inputs(inputs, SIZE)).reshape(-1, SIZE).mean(1)
    assert not np.allclose(found.scores(inputs), alone, rtol=1e-2)


def test_a_group_of_equal_inputs_is_one_of_them() -> None:
    network, preprocessing = tiny_graph(), tiny_network().preprocessing
    inputs = tiny_data("other", 8, seed=3).inputs
    scored = fit_head(network, make_head("sensnorm", {}), tiny_data("fit", 60, seed=0), preprocessing=preprocessing)
    found = grouped(network, scored, SIZE).scores(np.repeat(inputs[:, None], SIZE, axis=1))
    np.testing.assert_allclose(found, scored.scores(inputs), rtol=1e-4)


def test_the_file_takes_groups_and_says_so(detector: Path) -> None:
    loaded, inputs = ExportedDetector(detector), tiny_data("other", 12, seed=3).inputs
    assert (loaded.group, loaded.input_shape, loaded.single_shape) == (SIZE, (SIZE, 8, 8, 3), (8, 8, 3))
    assert loaded.card["group"] == SIZE
    assert loaded.card["calibration"]["n"] == 33  # of 100 inputs, one is left over
    found = loaded(group_inputs(inputs, SIZE))
    assert found.score.shape == found.p_value.shape == found.is_anomaly.shape == (4,)
    assert found.output.shape == (4, SIZE, 4)
    expected = tiny_network().module(_tensor(inputs)).detach().numpy().reshape(4, SIZE, 4)
    np.testing.assert_allclose(found.output, expected, rtol=1e-4, atol=1e-5)
    one_by_one = [loaded(group[None]).score[0] for group in group_inputs(inputs, SIZE)]
    np.testing.assert_allclose(found.score, one_by_one, rtol=1e-5)
    assert all(row["agrees"] for row in verify(detector))
    assert len(loaded(np.empty((0, SIZE, 8, 8, 3), np.uint8))) == 0


def _tensor(inputs: Any) -> Any:
    import torch

    return torch.from_numpy(tiny_network().preprocessing.apply(inputs))


def test_single_inputs_are_refused_with_the_way_to_groups(detector: Path) -> None:
    with pytest.raises(InputError, match=r"judges 3 inputs as one, use inputs.reshape\(-1, 3"):
        ExportedDetector(detector)(tiny_data("other", 12, seed=3).inputs)


def test_the_false_alarm_rate_is_that_of_groups(tmp_path: Path) -> None:
    onnx.save(tiny_proto(), tmp_path / "model.onnx")
    with pytest.raises(CalibrationError, match="needs at least 99") as caught:
        attach(tmp_path, false_alarm_rate=0.01)
    assert caught.value.__notes__ == ["a calibration sample is a group of 3 inputs here"]
    assert not (tmp_path / "detector.onnx").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"group": 0}, "at least 1"),
        ({"per_class": "pool"}, "several predicted classes"),
        ({"detail": "parts"}, "single inputs"),
        ({"group": 101}, "grouping 100 inputs"),
    ],
)
def test_what_groups_cannot_have_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    onnx.save(tiny_proto(), tmp_path / "model.onnx")
    with pytest.raises(InputError, match=message):
        attach(tmp_path, **settings)
    assert not (tmp_path / "detector.onnx").exists()


def test_recalibrating_leaves_groups_with_a_fitted_input_out(detector: Path) -> None:
    own = tiny_data("own", 90, seed=7).inputs.copy()
    own[4] = tiny_data("fit", 60, seed=0).inputs[0]
    card = recalibrate(detector, [group_inputs(own, SIZE)], rate=0.1)
    assert card["calibration"]["n"] == 29
    assert card["data"]["calibration"]["left_out"] == SIZE
    assert card["data"]["calibration"]["count"] == 90
    with pytest.raises(InputError, match="several predicted classes"):
        recalibrate(detector, per_class="pool")


def test_commands_make_groups_of_consecutive_inputs(detector: Path, tmp_path: Path) -> None:
    inputs = tiny_data("other", 12, seed=3).inputs
    np.save(tmp_path / "usual.npy", inputs)
    np.save(tmp_path / "odd.npy", tiny_data("odd", 9, seed=4).inputs[:, ::-1] // 2)
    found = run("score", detector, tmp_path / "usual.npy", "--format", "csv")
    assert found.exit_code == 0, found.output
    lines = [line for line in found.stdout.splitlines() if "usual" in line]
    assert [line.split(",")[0] for line in lines] == [
        f"{tmp_path}/usual.npy:{i} .. {tmp_path}/usual.npy:{i + 2}" for i in (0, 3, 6, 9)
    ]
    scores = ExportedDetector(detector)(group_inputs(inputs, SIZE)).score
    np.testing.assert_allclose([float(line.split(",")[1]) for line in lines], scores, rtol=1e-5)
    assert "4 groups of 3 scored" in found.stderr
    drift = run("drift", detector, tmp_path / "usual.npy")
    assert drift.exit_code == 0, drift.output
    assert run("recalibrate", detector, "--inputs", tmp_path / "usual.npy", "--rate", "0.5").exit_code == 0
    bench = run(
        "bench", detector, "--in-distribution", tmp_path / "usual.npy", "--anomalous", tmp_path / "odd.npy",
        "--output", tmp_path / "bench.json",
    )  # fmt: skip
    assert bench.exit_code == 0, bench.output


def test_half_a_group_is_refused(detector: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "usual.npy", tiny_data("other", 11, seed=3).inputs)
    found = run("score", detector, tmp_path / "usual.npy")
    assert found.exit_code != 0
    assert "found 2 left over" in " ".join(found.stderr.split())


def test_parts_of_a_folder_hold_whole_groups(detector: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "usual.npy", tiny_data("other", 12, seed=3).inputs)
    found = run(
        "score", detector, tmp_path / "usual.npy", "--format", "csv", "--output", tmp_path / "parts",
        "--rows-per-file", "2",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    parts = sorted((tmp_path / "parts").glob("part-*.csv"))
    assert [len(part.read_text().splitlines()) for part in parts] == [3, 3]


def test_detectors_of_groups_and_of_single_inputs_are_not_compared(detector: Path, tmp_path: Path) -> None:
    single = tmp_path / "single"
    single.mkdir()
    onnx.save(tiny_proto(), single / "model.onnx")
    attach(single, "energy", group=1)
    np.save(tmp_path / "usual.npy", tiny_data("other", 12, seed=3).inputs)
    found = run(
        "bench", detector, single / "detector.onnx", "--in-distribution", tmp_path / "usual.npy", "--output",
        tmp_path / "bench.json",
    )  # fmt: skip
    assert found.exit_code != 0
    assert "compare those of equal groups" in " ".join(found.stderr.split())
