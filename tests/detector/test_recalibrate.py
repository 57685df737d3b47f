"""Another threshold for a finished file: what changes, what must not, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from sparsense.calibrate import calibrate, p_values
from sparsense.class_calibration import PerClass, calibrate_by_class, class_p_values
from sparsense.data.dataset import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import AttachSettings, attach_to_file, file, ranks, recalibrate, verify
from sparsense.detector.close import SCORES
from sparsense.detector.recalibrate import remembered
from sparsense.errors import CalibrationError, ExportError, InputError
from sparsense.heads import HEADS
from sparsense.runtime import ExportedDetector
from tiny_classifier import tiny_data, tiny_network, tiny_proto

CALIBRATION, OWN, TEST = (tiny_data(name, 160, seed=seed).inputs for name, seed in [("a", 2), ("b", 11), ("c", 12)])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("detector")
    onnx.save(tiny_proto(), folder / "model.onnx")
    attach_to_file(
        folder / "model.onnx",
        HEADS["sensnorm_profile"](),
        folder / "detector.onnx",
        fit=tiny_data("fit", 60, seed=0),
        calibration=tiny_data("a", 160, seed=2),
        preprocessing=tiny_network().preprocessing,
    )
    return (folder / "detector.onnx").read_bytes()


@pytest.fixture
def path(original: bytes, tmp_path: Path) -> Path:
    (tmp_path / "detector.onnx").write_bytes(original)
    return tmp_path / "detector.onnx"


def batches(inputs: np.ndarray, size: int = 50) -> list[np.ndarray]:
    return [inputs[start : start + size] for start in range(0, len(inputs), size)]


def row_autoencoder() -> onnx.ModelProto:
    """As many outputs as inputs, and as many axes as logits have."""
    random, node = np.random.default_rng(0), onnx.helper.make_node
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 6]) for name in "xy"]
    nodes = [node("Gemm", ["x", "w"], ["a"]), node("Relu", ["a"], ["r"]), node("Gemm", ["r", "v"], ["y"])]
    weights = {"w": random.normal(0, 0.3, (6, 16)), "v": random.normal(0, 0.3, (16, 6))}
    tensors = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    graph = onnx.helper.make_graph(nodes, "rows", values[:1], values[1:], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def test_a_reconstruction_has_no_classes(tmp_path: Path) -> None:
    """The largest number of a row is no class, though it can be asked for."""
    model, path = tmp_path / "model.onnx", tmp_path / "d.onnx"
    onnx.save(row_autoencoder(), model)
    fit, held_out, own = np.random.default_rng(1).standard_normal((3, 200, 6)).astype(np.float32)

    def attach(per_class: PerClass) -> None:
        attach_to_file(
            model, HEADS["reconstruction_error"](), path, fit=Dataset("fit", fit), calibration=Dataset("c", held_out),
            preprocessing=Preprocessing("ND", "float32", 1.0), settings=AttachSettings(per_class=per_class),
            progress=lambda what, *_: begun.append(what),
        )  # fmt: skip

    begun: list[str] = []
    message = "class by class: expected a classifier, found a network for reconstruction, which predicts no classes"
    with pytest.raises(CalibrationError, match=f"calibrating head 'reconstruction_error' {message}"):
        attach("pool")
    assert not begun
    attach("no")
    with pytest.raises(CalibrationError, match=f"recalibrating .*d.onnx {message}"):
        recalibrate(path, [own], rate=0.05, per_class="pool")
    assert recalibrate(path, [own], rate=0.05)["calibration"]["n"] == 200


def test_own_data_changes_threshold_p_values_and_card_and_no_score(path: Path) -> None:
    before = ExportedDetector(path)
    usual, own = before(TEST), np.concatenate([before(batch).score for batch in batches(OWN)])
    card = recalibrate(path, batches(OWN), name="production", rate=0.1)
    after = ExportedDetector(path)
    found = after(TEST)
    expected = calibrate(own, 0.1)
    np.testing.assert_array_equal(found.score, usual.score)
    np.testing.assert_array_equal(found.output, usual.output)
    np.testing.assert_allclose(found.p_value, p_values(own, usual.score), rtol=1e-6)
    np.testing.assert_array_equal(found.is_anomaly, usual.score > expected.threshold)
    assert after.threshold == expected.threshold
    assert after.card["calibration"]["n"] == 160
    assert after.card["calibration"]["interval"] == list(expected.interval)
    assert after.card["data"]["calibration"]["name"] == "production"
    assert after.card["data"]["fit"] == before.card["data"]["fit"]
    assert after.card["recalibrated"][0]["before"]["threshold"] == before.threshold
    assert after.card["recalibrated"][0]["data_before"] == before.card["data"]["calibration"]
    assert card["calibration"]["threshold"] == after.threshold
    assert all(row["agrees"] for row in verify(path))


def test_the_hash_names_the_data_and_not_how_it_was_cut(path: Path) -> None:
    hashes = {recalibrate(path, batches(OWN, size), rate=0.1)["data"]["calibration"]["sha256"] for size in (7, 50, 160)}
    assert len(hashes) == 1
    assert recalibrate(path, batches(TEST), rate=0.1)["data"]["calibration"]["sha256"] not in hashes


def test_another_rate_comes_from_the_stored_scores(path: Path) -> None:
    before = ExportedDetector(path)
    scores, usual = before(CALIBRATION).score, before(TEST)
    recalibrate(path, rate=0.2, output=path.with_name("looser.onnx"))
    after = ExportedDetector(path.with_name("looser.onnx"))
    assert after.threshold == pytest.approx(calibrate(scores, 0.2).threshold, rel=1e-6)
    assert after.card["data"]["calibration"] == before.card["data"]["calibration"]
    np.testing.assert_array_equal(after(TEST).p_value, usual.p_value)
    assert ExportedDetector(path).threshold == before.threshold
    with pytest.raises(CalibrationError, match="needs at least 999 calibration samples; got 160"):
        recalibrate(path, rate=0.001)


def test_there_and_back_again_is_the_same_file_but_for_the_history(path: Path) -> None:
    before = onnx.load(path)
    for rate in (0.2, 0.05, 0.1, 0.05):
        recalibrate(path, rate=rate)
    after = onnx.load(path)
    assert sorted(node.op_type for node in after.graph.node) == sorted(node.op_type for node in before.graph.node)
    assert {tensor.name for tensor in after.graph.initializer} == {tensor.name for tensor in before.graph.initializer}
    assert ExportedDetector(path).card["recalibrated"][3]["before"]["rate"] == 0.1


def test_a_threshold_for_each_predicted_class(path: Path) -> None:
    before = ExportedDetector(path)
    own, usual = before(OWN), before(TEST)
    predicted, classes = own.output.argmax(1), usual.output.argmax(1)
    recalibrate(path, [OWN], rate=0.2, per_class="strict")
    after = ExportedDetector(path)
    expected = calibrate_by_class(own.score, predicted, 0.2, classes=4)
    found = after(TEST)
    np.testing.assert_array_equal(found.score, usual.score)
    np.testing.assert_array_equal(found.is_anomaly, usual.score > expected.thresholds[classes])
    np.testing.assert_allclose(
        found.p_value, class_p_values(expected, (own.score, predicted), usual.score, classes), rtol=1e-6
    )
    np.testing.assert_allclose(after.class_thresholds, expected.thresholds)
    assert [row["n"] for row in after.card["calibration"]["classes"]] == np.bincount(predicted, minlength=4).tolist()
    np.testing.assert_array_equal(after(TEST, threshold=3.0).is_anomaly, usual.score > 3)
    own_thresholds = np.array([0, 1e9, 0, 1e9])
    np.testing.assert_array_equal(
        after(TEST, threshold=own_thresholds).is_anomaly, usual.score > own_thresholds[classes]
    )
    with pytest.raises(InputError, match=r"takes a threshold of shape \[4\]; got \[3\]"):
        after(TEST, threshold=np.zeros(3))


def test_classes_are_remembered_for_another_rate(path: Path) -> None:
    own = ExportedDetector(path)(OWN)
    recalibrate(path, [OWN], rate=0.2, per_class="strict")
    recalibrate(path, rate=0.25)
    expected = calibrate_by_class(own.score, own.output.argmax(1), 0.25, classes=4)
    np.testing.assert_allclose(ExportedDetector(path).class_thresholds, expected.thresholds)
    recalibrate(path, per_class="no", rate=0.1)
    assert ExportedDetector(path).class_thresholds is None
    assert ExportedDetector(path).threshold == pytest.approx(calibrate(own.score, 0.1).threshold)


def test_a_class_with_too_few_samples_is_refused_or_pooled(path: Path) -> None:
    detector = ExportedDetector(path)
    predicted = detector(OWN).output.argmax(1)
    rare = np.concatenate([np.flatnonzero(predicted == 2)[:3], np.flatnonzero(predicted != 2)])
    content = path.read_bytes()
    with pytest.raises(CalibrationError, match="class 2 has 3") as error:
        recalibrate(path, batches(OWN[rare]), rate=0.2, per_class="strict")
    assert error.value.needed == 4
    assert path.read_bytes() == content
    recalibrate(path, [OWN[rare]], rate=0.2, per_class="pool")
    rows = ExportedDetector(path).card["calibration"]["classes"]
    assert [row["pooled"] for row in rows] == [False, False, True, False]
    assert rows[2]["threshold"] == calibrate(detector(OWN[rare]).score, 0.2).threshold


def test_without_data_and_without_stored_scores_it_says_what_to_give(path: Path) -> None:
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        tensor.name = "renamed" if tensor.name == SCORES else tensor.name
    for node in proto.graph.node:
        node.input[:] = ["renamed" if name == SCORES else name for name in node.input]
    onnx.save(proto, path)
    with pytest.raises(InputError, match="does not hold the scores that it was calibrated with; give"):
        recalibrate(path, rate=0.1)
    recalibrate(path, batches(OWN), rate=0.1)
    recalibrate(path, rate=0.2)  # now it does


def test_classes_that_the_file_does_not_remember_are_asked_for(path: Path) -> None:
    with pytest.raises(
        CalibrationError, match="expected the class predicted for every calibration input, found scores"
    ):
        recalibrate(path, rate=0.1, per_class="pool")


@pytest.mark.parametrize("planted", ["weight", "card"])
def test_a_file_that_lost_its_proof_is_not_replaced(path: Path, planted: str) -> None:
    proto = onnx.load(path)
    if planted == "weight":
        weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "head.weight")
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * 1.1, weight.name))
    else:
        kept = [entry for entry in proto.metadata_props if entry.key == "sparsense.card"]
        del proto.metadata_props[:]
        proto.metadata_props.extend(kept)
    onnx.save(proto, path)
    content = path.read_bytes()
    with pytest.raises((ExportError, InputError), match=r"of the oracle|expected stored parity inputs"):
        recalibrate(path, rate=0.1)
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_no_inputs_at_all_are_refused(path: Path) -> None:
    with pytest.raises(CalibrationError, match="expected inputs, found none"):
        recalibrate(path, iter(()))


@pytest.mark.parametrize("per_class", ["no", "pool"])
def test_a_large_table_can_be_recalibrated_again(path: Path, monkeypatch: pytest.MonkeyPatch, per_class: str) -> None:
    """Many scores are searched in another way; the file still holds them."""
    monkeypatch.setattr(ranks, "DIRECT", 100)
    own = ExportedDetector(path)(OWN).score
    recalibrate(path, batches(OWN), rate=0.1, per_class=per_class)
    found, first = remembered(path), ExportedDetector(path)(TEST)
    assert found is not None
    np.testing.assert_allclose(np.sort(found.scores), np.sort(own), rtol=1e-4)
    monkeypatch.setattr(ranks, "DIRECT", 10**6)
    recalibrate(path, rate=0.1)
    second = ExportedDetector(path)(TEST)
    for name in ("score", "p_value", "is_anomaly"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_how_many_samples_run_at_once_is_asked_of_the_new_graph(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "micro_batch", lambda _: 17)
    recalibrate(path, rate=0.1)
    assert ExportedDetector(path).micro_batch == 17
