"""INT8: close to float32, really in whole numbers, and refused when it does not pay."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sparsense.benchmark.latency import Latency
from sparsense.benchmark.machine import this_machine
from sparsense.benchmark.metrics import auroc
from sparsense.data import SOURCES
from sparsense.data.dataset import Dataset
from sparsense.detector import fit_head
from sparsense.errors import GraphError, InputError
from sparsense.graph import forward_graph, load_graph
from sparsense.graph.run import Session
from sparsense.heads import HEADS
from sparsense.networks import load_network
from sparsense.quantise import Budget, judge, quantise_if_better, to_float16, to_int8
from sparsense.quantise.judge import Trial, energy, refusal
from sparsense.to_onnx import export_forward


@pytest.fixture(scope="module")
def network():
    return load_network("digits_resnet", weights="bundled")


@pytest.fixture(scope="module")
def files(network):
    before = export_forward(network).SerializeToString()
    return before, to_int8(before, seen(network, "calibration", 100))


def seen(network, split, limit):
    return network.preprocessing.apply(SOURCES["digits"](split, limit=limit, seed=0).inputs)


@pytest.fixture(scope="module")
def trial(network):
    test = SOURCES["digits"]("test", limit=200, seed=0)
    letters = SOURCES["letters"]("test", limit=100, seed=0)
    apply = network.preprocessing.apply
    return Trial(apply(test.inputs), test.labels, apply(letters.inputs))


def test_weights_are_signed_bytes_per_channel_and_activations_unsigned(files):
    graph = onnx.load_from_string(files[1]).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    kernels = [array for array in values.values() if array.ndim == 4]
    assert kernels
    assert {array.dtype for array in kernels} == {np.dtype(np.int8)}
    scales = {node.input[0]: values[node.input[1]] for node in graph.node if node.op_type == "DequantizeLinear"}
    for name, array in values.items():
        if array.ndim == 4:
            assert scales[name].shape == (len(array),)
    points = {values[node.input[2]].dtype for node in graph.node if node.op_type == "QuantizeLinear"}
    assert points == {np.dtype(np.uint8)}
    assert len(files[1]) < 0.6 * len(files[0])


def test_the_answers_are_nearly_those_of_float32(files, trial):
    before, after = (Session(content)(trial.inputs)[0] for content in files)
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.97
    assert 0 < np.abs(before - after).max() < 0.25 * np.abs(before).max()
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.99


def test_numbers_of_the_judgement_are_those_of_the_files(files, trial):
    found = judge(*files, trial, Budget(rounds=6))
    logits = [Session(content)(trial.inputs)[0] for content in files]
    assert found.accuracy == tuple(pytest.approx((one.argmax(1) == trial.labels).mean()) for one in logits)
    strange = [Session(content)(trial.anomalies)[0] for content in files]
    assert found.auroc == tuple(
        pytest.approx(auroc(energy(a), energy(b))) for a, b in zip(logits, strange, strict=True)
    )
    assert found.size == (len(files[0]), len(files[1]))
    assert ("INT8 accepted" if found.accepted else "INT8 refused: ") in str(found)
    assert "accuracy 9" in str(found)


LATENCY = Latency(
    median_ms=1.0, quartiles_ms=(0.9, 1.1), p99_ms=1.2, ratio=0.5, ratio_interval=(0.4, 0.6), verdict="faster",
    rounds=15, repeats=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("accuracy", "areas", "verdict", "reason"),
    [
        ((0.9, 0.896), (0.9, 0.896), "faster", ""),
        ((0.9, 0.896), None, "faster", ""),
        ((0.9, 0.9), (0.9, 0.9), "slower", "it is slower"),
        ((0.9, 0.9), (0.9, 0.9), "not distinguishable", "it is not measurably faster"),
        ((0.9, 0.89), (0.9, 0.9), "faster", "accuracy falls by more than 0.5 points"),
        ((0.9, 0.9), (0.9, 0.8), "faster", "AUROC falls by more than 0.5 points"),
        (
            (0.9, 0.8),
            (0.9, 0.8),
            "slower",
            "it is slower and accuracy falls by more than 0.5 points and AUROC falls by",
        ),
    ],
)
def test_int8_is_refused_unless_it_is_faster_and_as_good(accuracy, areas, verdict, reason):
    found = refusal(accuracy, areas, replace(LATENCY, verdict=verdict), Budget())
    assert found.startswith(reason)
    assert bool(found) is bool(reason)


def test_what_is_refused_is_not_given(files, network, trial):
    impossible = Budget(accuracy=-1.0, rounds=6)  # INT8 would have to be a hundred points better
    content, found = quantise_if_better(files[0], seen(network, "calibration", 40), trial, impossible)
    assert content is None
    assert not found.accepted


def test_energy_is_minus_log_sum_exp():
    np.testing.assert_allclose(energy(np.array([[0.0, 0.0], [1000.0, 0.0]])), [-np.log(2), -1000.0])


def test_heads_on_outputs_attach_and_heads_on_gradients_do_not(files, network):
    data = SOURCES["digits"]("train", limit=60, seed=0)
    images = Dataset("train", data.inputs, data.labels)
    graph = forward_graph(load_graph(files[1]), network.preprocessing)
    scored = fit_head(graph, HEADS["energy"](), images, preprocessing=network.preprocessing)
    (found,) = Session(scored.network.model, [scored.score])(images.inputs)
    expected = energy(Session(files[1])(network.preprocessing.apply(images.inputs))[0])
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.1)
    with pytest.raises(GraphError, match="layers with constant weights: expected some"):
        fit_head(graph, HEADS["sensnorm"](), images, preprocessing=network.preprocessing)


@pytest.mark.parametrize("samples", [np.zeros((0, 1, 8, 8), np.float32), np.full((2, 1, 8, 8), np.nan, np.float32)])
def test_senseless_samples_are_refused(files, samples):
    with pytest.raises(InputError, match="expected finite calibration samples"):
        to_int8(files[0], samples)


def test_a_trial_needs_a_label_per_input(files, trial):
    with pytest.raises(InputError, match="a label per input"):
        judge(*files, trial._replace(labels=trial.labels[:3]), Budget())


@pytest.mark.parametrize(
    ("features", "narrow"), [(["avx2", "avx512f"], True), (["avx512f", "avx512_vnni"], False), (["asimd"], False)]
)
def test_weights_have_seven_bits_where_sums_of_bytes_overflow(files, network, monkeypatch, features, narrow):
    here = this_machine().model_copy(update={"features": features})
    monkeypatch.setattr(import_module("sparsense.quantise.int8"), "this_machine", lambda: here)
    made = onnx.load_from_string(to_int8(files[0], seen(network, "calibration", 20)))
    largest = max(int(np.abs(numpy_helper.to_array(t).astype(int)).max()) for t in made.graph.initializer
                  if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4)  # fmt: skip
    assert largest == (64 if narrow else 127)


# Half precision


@pytest.fixture(scope="module")
def halved(files):
    return to_float16(files[0])


def test_half_precision_is_half_as_large_and_nearly_the_same(files, halved, trial):
    before, after = (Session(content)(trial.inputs)[0] for content in (files[0], halved))
    assert before.dtype == after.dtype == np.float32
    assert 0 < np.abs(before - after).max() < 0.01 * np.abs(before).max()
    assert len(halved) < 0.6 * len(files[0])
    kinds = {tensor.data_type for tensor in onnx.load_from_string(halved).graph.initializer if len(tensor.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("head", ["energy", "mahalanobis"])
def test_heads_on_outputs_and_features_attach_to_half_precision(files, halved, network, head):
    data = SOURCES["digits"]("train", limit=60, seed=0)
    scores = []
    for content in (files[0], halved):
        graph = forward_graph(load_graph(content), network.preprocessing)
        scored = fit_head(graph, HEADS[head](), data, preprocessing=network.preprocessing)
        scores.append(Session(scored.network.model, [scored.score])(data.inputs)[0])
    assert np.corrcoef(*scores)[0, 1] > 0.999


def test_half_precision_is_judged_under_its_own_name(files, network, trial):
    impossible = Budget(accuracy=-1.0, rounds=6)
    content, found = quantise_if_better(files[0], seen(network, "calibration", 2), trial, impossible, to="float16")
    assert content is None
    assert str(found).startswith("float16 refused: ")
    assert found.size[1] < 0.6 * found.size[0]
