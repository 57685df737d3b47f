"""Attaching to a file without torch: its card, its checks, and what they catch."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sparsense.autodiff.rule import RULES, Rule
from sparsense.data.dataset import Dataset
from sparsense.data.digests import digests
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import PARITY_KEY, AttachSettings, attach_to_file, fit_head, recalibrate, verify
from sparsense.detector.gradients import check_gradients
from sparsense.detector.second_opinion import IN_DOUBLE, UNOPTIMISED, check_forward, second_opinion
from sparsense.detector.seen import count_seen
from sparsense.errors import ExportError, GraphError, InputError, UnknownNameError
from sparsense.graph.original import Original
from sparsense.heads import HEADS, make_head
from sparsense.oracles import oracle_scores
from sparsense.parity import Parity
from sparsense.runtime import ExportedDetector
from tiny_classifier import tiny_data, tiny_graph, tiny_network, tiny_proto


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(tiny_proto(), path)
    return path


def attach(
    model: Path, head: str = "sensnorm", options: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "fit": tiny_data("fit", 60, seed=0),
        "calibration": tiny_data("calibration", 99, seed=2),
        "preprocessing": tiny_network().preprocessing,
        "output": model.parent / "detector.onnx",
    }
    return attach_to_file(model, make_head(head, options or {}), **(arguments | changes))


def test_the_file_carries_a_card_that_says_where_everything_came_from(model: Path) -> None:
    card = attach(model, options={"p": 2})
    found = ExportedDetector(model.parent / "detector.onnx").card
    assert found["head"] == "sensnorm"
    assert found["options"]["p"] == 2
    fit = tiny_data("fit", 60, seed=0)
    assert found["data"]["fit"] == {"name": "fit", "count": 60, "sha256": fit.sha256(), "accuracy": 0.9}
    assert found["calibration"]["n"] == 99
    assert found["preprocessing"]["mean"] == [0.5, 0.4, 0.3]
    assert found["versions"]["numpy"] == np.__version__
    assert found["checks"]["gradient"]["error"] < 1e-6
    assert found["checks"]["forward"]["error"] < 1e-5
    assert found["parity"] == {"oracle": IN_DOUBLE, "inputs": 32, "tolerance": 1e-5}
    assert all(row["agrees"] for row in card["parity"]["rows"])
    assert all(row["agrees"] for row in verify(model.parent / "detector.onnx"))


def test_a_place_that_cannot_be_written_is_refused_before_the_fit(model: Path) -> None:
    asked: list[str] = []
    with pytest.raises(InputError, match="it is a folder; give a name in it"):
        attach(model, "energy", output=model.parent, progress=lambda what, *_: asked.append(what))
    assert not asked


def test_a_private_file_holds_no_inputs_and_no_hashes(model: Path) -> None:
    held_out = tiny_data("calibration", 99, seed=2)
    path, known = model.parent / "detector.onnx", digests(held_out.inputs)
    attach(model, "energy", settings=AttachSettings(private=True))
    metadata = ExportedDetector(path).metadata
    stored = Parity.unpack(metadata[PARITY_KEY])
    assert len(stored.inputs) == 16
    assert not np.isin(digests(stored.inputs), known).any()
    assert count_seen(metadata, known) is None
    assert all(row["agrees"] for row in verify(path))
    recalibrate(path, [tiny_data("own", 99, seed=9).inputs])
    assert count_seen(ExportedDetector(path).metadata, known) is None
    attach(model, "energy")
    metadata = ExportedDetector(path).metadata
    assert np.isin(digests(Parity.unpack(metadata[PARITY_KEY]).inputs), known).sum() == 16
    assert count_seen(metadata, known) == 99


def test_calibration_inputs_that_repeat_fitting_inputs_are_left_out(model: Path) -> None:
    """As rows of a table of whole numbers do, wherever it is divided."""
    fit, held_out = tiny_data("fit", 60, seed=0), tiny_data("calibration", 99, seed=2)
    repeating = Dataset("repeating", np.concatenate([fit.inputs[:13], held_out.inputs]))
    card = attach(model, "energy", calibration=repeating)
    assert card["calibration"] == attach(model, "energy")["calibration"]
    assert (card["data"]["calibration"]["count"], card["data"]["calibration"]["left_out"]) == (112, 13)


def test_scores_are_those_of_the_road_with_torch(model: Path) -> None:
    attach(model)
    inputs = tiny_data("test", 20, seed=5).inputs
    fit = tiny_data("fit", 60, seed=0)
    scored = fit_head(tiny_graph(), HEADS["sensnorm"](), fit, preprocessing=tiny_network().preprocessing)
    found = ExportedDetector(model.parent / "detector.onnx")(inputs).score
    np.testing.assert_allclose(found, oracle_scores(scored, tiny_network(), inputs), rtol=1e-5)


def test_channels_first_inputs_are_arranged(model: Path) -> None:
    attach(model, preprocessing=replace(tiny_network().preprocessing, layout="NCHW"))
    detector = ExportedDetector(model.parent / "detector.onnx")
    assert detector.input_shape == (3, 8, 8)
    attach(model, output=model.parent / "last.onnx")
    inputs = tiny_data("test", 20, seed=5).inputs
    expected = ExportedDetector(model.parent / "last.onnx")(inputs)
    np.testing.assert_allclose(detector(inputs.transpose(0, 3, 1, 2).copy()).score, expected.score, rtol=1e-5)
    assert detector.threshold == pytest.approx(expected and ExportedDetector(model.parent / "last.onnx").threshold)


def test_unknown_names_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="sensnorm"):
        attach(tmp_path / "missing.onnx", "sensnrm")
    with pytest.raises(UnknownNameError, match="unknown option of head 'sensnorm' 'q'"):
        attach(tmp_path / "missing.onnx", options={"q": 3})


@pytest.mark.parametrize("part", ["fit", "calibration"])
@pytest.mark.parametrize("inputs", [np.zeros((99, 9, 9, 3), np.uint8), np.zeros((99, 5), np.float32)])
def test_data_that_the_network_does_not_take_are_refused_by_shape(model: Path, part: str, inputs: np.ndarray) -> None:
    inputs[:, 0] = np.arange(99).reshape(-1, *[1] * (inputs.ndim - 2))
    found = f"[N, {', '.join(map(str, inputs.shape[1:]))}] of {inputs.dtype}"
    with pytest.raises(InputError) as refused:
        attach(model, "energy", **{part: Dataset("odd", inputs)})
    assert f"reading 'odd': expected inputs [N, 8, 8, 3] of uint8 as this network takes them, found {found}" in str(
        refused.value
    )


def test_a_detector_is_no_network(model: Path) -> None:
    attach(model, "energy")
    detector = model.parent / "detector.onnx"
    with pytest.raises(InputError, match="expected a network, found a detector, which has a head; attach to the netw"):
        attach(detector, "msp", output=model.parent / "again.onnx")
    assert not (model.parent / "again.onnx").exists()


def test_an_output_that_is_no_logits_is_refused(model: Path) -> None:
    proto = onnx.load(model)
    convolution = next(node for node in proto.graph.node if node.op_type == "Conv")
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(convolution.output[0], 1, ["batch", 6, 4, 4]))
    onnx.save(proto, model)
    with pytest.raises(GraphError, match=r"a classifier has an output with 2 axes, found \[N, 6, 4, 4\]"):
        attach(model, "energy")


def test_a_wrong_gradient_is_found_and_its_layer_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = RULES["Relu"]
    doubled = Rule(lambda index: lambda op, delta, call: op.Mul(right.product(index)(op, delta, call), 1.01))
    monkeypatch.setitem(RULES._entries, "Relu", doubled)
    with pytest.raises(
        ExportError, match=r"finite differences of the forward graph, found .* layer '(stem|block)"
    ) as error:
        attach(model)
    assert 1e-3 < error.value.worst < 0.1
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]


def test_right_gradients_agree_far_below_the_tolerance() -> None:
    assert check_gradients(tiny_graph(), tiny_data("fit", 60, seed=0).inputs[:4]) < 1e-7


def test_a_network_that_was_changed_is_found(model: Path) -> None:
    other = onnx.load(model)
    weight = next(tensor for tensor in other.graph.initializer if tensor.name == "head.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.001, weight.name))
    inputs, preprocessing = tiny_data("test", 20, seed=5).inputs, tiny_network().preprocessing
    assert check_forward(tiny_graph(), Original(model), preprocessing, inputs)["error"] < 1e-5
    with pytest.raises(ExportError, match="comparing the network inside the detector with the given model"):
        check_forward(tiny_graph(), Original(other), preprocessing, inputs)


@pytest.fixture(scope="module")
def scored():
    fit = tiny_data("fit", 60, seed=0)
    return fit_head(tiny_graph(), HEADS["sensnorm"](), fit, preprocessing=tiny_network().preprocessing)


def test_second_opinion_in_double_is_torch_to_the_rounding_of_constants(scored) -> None:
    inputs = tiny_data("test", 20, seed=5).inputs
    parity = second_opinion(scored, inputs, tolerance=1e-5)
    assert parity.oracle == IN_DOUBLE
    assert parity.scores.dtype == np.float64
    np.testing.assert_allclose(parity.scores, oracle_scores(scored, tiny_network(), inputs), rtol=3e-6)


def test_the_clock_does_not_choose_the_inputs_of_the_second_opinion(scored, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = tiny_data("test", 20, seed=5).inputs
    for per_call in (0.001, 1.5, 2.9):
        clock = itertools.count(step=per_call)
        monkeypatch.setattr("sparsense.detector.second_opinion.perf_counter", lambda clock=clock: next(clock))
        np.testing.assert_array_equal(second_opinion(scored, inputs, tolerance=1e-5).inputs, inputs)
    clock = itertools.count(step=20)  # the estimate is far off
    monkeypatch.setattr("sparsense.detector.second_opinion.perf_counter", lambda: next(clock))
    np.testing.assert_array_equal(second_opinion(scored, inputs, tolerance=1e-5).inputs, inputs[[0, 10, 19]])


def test_a_graph_that_takes_long_is_given_fewer_inputs_of_all_kinds(scored, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = tiny_data("test", 20, seed=5).inputs
    monkeypatch.setattr("sparsense.detector.second_opinion.nanoseconds", lambda _: 7_500_000_000)
    np.testing.assert_array_equal(second_opinion(scored, inputs, tolerance=1e-5).inputs, inputs[[0, 19]])


def test_second_opinion_that_is_too_slow_says_so(scored) -> None:
    inputs = tiny_data("test", 20, seed=5).inputs
    parity = second_opinion(scored, inputs, tolerance=1e-5, seconds=1e-9)
    assert parity.oracle.startswith(f"{UNOPTIMISED} (float64 takes more than")
    np.testing.assert_allclose(parity.scores, scored.scores(inputs), rtol=1e-5)


def test_second_opinion_without_a_reference_implementation_says_so(scored, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError("no Frobnicate")

    monkeypatch.setattr("sparsense.detector.second_opinion.Double", refuse)
    parity = second_opinion(scored, tiny_data("test", 20, seed=5).inputs, tolerance=1e-5)
    assert parity.oracle == f"{UNOPTIMISED} (float64 failed: NotImplementedError: no Frobnicate)"


def test_rows_of_a_table_work_too(tmp_path: Path) -> None:
    path = tmp_path / "mlp.onnx"
    graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, ["N", 5])], [], nodes=[], opset_imports={"": 20}, name="mlp")
    from sparsense.graph import Builder

    op, random = Builder(graph), np.random.default_rng(0)
    weight = lambda *shape: random.standard_normal(shape).astype(np.float32)  # noqa: E731
    hidden = op.Relu(op.Gemm(graph.inputs[0], weight(5, 8), weight(8)))
    graph.outputs.append(op.Gemm(hidden, weight(8, 3), weight(3) + 4))
    onnx.save(ir.to_proto(ir.Model(graph, ir_version=9)), path)
    rows = random.standard_normal((160, 5)).astype(np.float32)
    attach(
        path,
        "sensnorm_profile",
        fit=Dataset("fit", rows[:60]),
        calibration=Dataset("calibration", rows[60:]),
        preprocessing=Preprocessing("ND", "float32", 1.0),
        output=tmp_path / "detector.onnx",
    )
    assert ExportedDetector(tmp_path / "detector.onnx")(rows[:7]).score.shape == (7,)


def test_the_whole_road_runs_where_torch_is_not_installed(model: Path) -> None:
    program = f"""
import sys
sys.modules["torch"] = None
import numpy as np
from sparsense.data.dataset import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import attach_to_file, verify
from sparsense.heads import HEADS
images = np.random.default_rng(0).integers(0, 256, (140, 8, 8, 3)).astype(np.uint8)
fit, held_out = Dataset("fit", images[:40]), Dataset("held out", images[40:])
attach_to_file({str(model)!r}, HEADS["sensnorm_profile"](), {str(model.parent / "detector.onnx")!r}, fit=fit,
               calibration=held_out, preprocessing=Preprocessing())
print(all(row["agrees"] for row in verify({str(model.parent / "detector.onnx")!r})))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "True", found.stderr
