"""The closed graph: its p-values, threshold and decisions are those of the calibration."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsense.calibrate import calibrate, p_values
from sparsense.detector import Scored, calibrated, fit_head, p_value
from sparsense.errors import CalibrationError
from sparsense.graph import Builder, ForwardGraph, Session
from sparsense.heads import HEADS
from tiny_classifier import tiny_data, tiny_graph, tiny_network


@pytest.fixture(scope="module")
def scored():
    return fit_head(
        tiny_graph(), HEADS["energy"](), tiny_data("fit", 20, seed=0), preprocessing=tiny_network().preprocessing
    )


def p_value_graph(calibration: np.ndarray) -> Session:
    graph = ir.Graph([ir.val("score", ir.DataType.FLOAT, ["N"])], [], nodes=[], opset_imports={"": 20})
    graph.outputs.append(p_value(Builder(graph), graph.inputs[0], np.sort(calibration)))
    graph.name = "p"
    return Session(ir.Model(graph, ir_version=9), threads=1)


quarters = st.integers(-40, 40).map(lambda number: number / 4)  # exact in float32, with ties


@settings(max_examples=30, deadline=None)
@given(st.lists(quarters, min_size=1, max_size=50), st.lists(quarters, min_size=1, max_size=20))
def test_p_values_in_the_graph_are_those_of_calibrate(calibration: list[float], scores: list[float]) -> None:
    (found,) = p_value_graph(np.array(calibration, np.float32))(np.array(scores, np.float32))
    np.testing.assert_allclose(found, p_values(calibration, scores), rtol=1e-6)


def test_p_values_reach_from_the_least_possible_to_one() -> None:
    (found,) = p_value_graph(np.arange(9, dtype=np.float32))(np.array([-np.inf, 0, 8, 8.5, np.inf], np.float32))
    np.testing.assert_allclose(found, [1, 1, 0.2, 0.1, 0.1], rtol=1e-6)


def test_outputs_belong_together(scored) -> None:
    held_out, test = tiny_data("calibration", 99, seed=2).inputs, tiny_data("test", 60, seed=3).inputs
    scores = scored.scores(held_out)
    model, calibration = calibrated(scored, scores, 0.05)
    assert [output.name for output in model.graph.outputs] == ["score", "p_value", "is_anomaly", "output"]
    score, p, anomaly, logits = Session(model)({"input": test})
    assert calibration == calibrate(scores, 0.05)
    np.testing.assert_array_equal(score, scored.scores(test))
    np.testing.assert_allclose(p, p_values(scores, score), rtol=1e-6)
    np.testing.assert_array_equal(anomaly, score > np.float32(calibration.threshold))
    np.testing.assert_array_equal(anomaly, p <= 0.05 + 1e-6)
    np.testing.assert_allclose(score, -np.log(np.exp(logits.astype(np.float64)).sum(1)), rtol=1e-5)


def test_threshold_can_be_given_and_changes_only_the_decision(scored) -> None:
    held_out, test = tiny_data("calibration", 99, seed=2).inputs, tiny_data("test", 60, seed=3).inputs
    session = Session(calibrated(scored, scored.scores(held_out), 0.05)[0])
    usual = session({"input": test})
    middle = np.asarray(np.median(usual[0]), np.float32)
    score, p, anomaly, _ = session({"input": test, "threshold": middle})
    np.testing.assert_array_equal(score, usual[0])
    np.testing.assert_array_equal(p, usual[1])
    np.testing.assert_array_equal(anomaly, score > middle)
    assert anomaly.sum() == 30


@pytest.mark.parametrize("count", [1, 2, 5, 33])
def test_batch_axis_is_free(scored, count: int) -> None:
    model, _ = calibrated(scored, scored.scores(tiny_data("calibration", 99, seed=2).inputs), 0.05)
    assert [value.shape[0].value for value in (model.graph.inputs[0], *model.graph.outputs)] == ["N"] * 5
    outputs = Session(model)({"input": tiny_data("test", 60, seed=3).inputs[:count]})
    assert [len(output) for output in outputs] == [count] * 4


def test_too_few_calibration_samples_name_the_number_needed(scored) -> None:
    scores = scored.scores(tiny_data("calibration", 99, seed=2).inputs)
    with pytest.raises(CalibrationError) as error:
        calibrated(scored, scores[:18], 0.05)
    assert error.value.needed == 19
    calibrated(scored, scores[:19], 0.05)


def test_scores_that_are_not_finite_are_refused(scored) -> None:
    scores = scored.scores(tiny_data("calibration", 99, seed=2).inputs)
    scores[3] = np.inf
    with pytest.raises(CalibrationError, match="head 'energy': 1 of 99 scores are NaN or infinite"):
        calibrated(scored, scores, 0.05)


def test_the_scored_graph_can_be_closed_again(scored) -> None:
    scores = scored.scores(tiny_data("calibration", 99, seed=2).inputs)
    first, second = (calibrated(scored, scores, rate)[0] for rate in (0.05, 0.2))
    thresholds = [float(model.graph.initializers["threshold"].const_value.numpy()) for model in (first, second)]
    assert thresholds == [np.float32(calibrate(scores, rate).threshold) for rate in (0.05, 0.2)]


def test_a_score_that_is_not_a_number_is_an_anomaly() -> None:
    given_values = ir.val("input", ir.DataType.FLOAT, ["N", 1])
    graph = ir.Graph([given_values], [], nodes=[], opset_imports={"": 20}, name="roots")
    op = Builder(graph)
    root = op.Sqrt(given_values)  # of a negative number
    score, output = op.Squeeze(root, [1]), op.Identity(root)
    network = ForwardGraph(ir.Model(graph, ir_version=10), given_values, given_values, output, op, "classifier")
    model, _ = calibrated(Scored(network, HEADS["energy"](), score), np.arange(1, 20, dtype=np.float32), 0.1)
    found, p, anomaly, _ = Session(model)({"input": np.array([[-1.0], [4.0], [1e6]], np.float32)})
    assert np.isnan(found[0])
    np.testing.assert_array_equal(anomaly, [True, False, True])
    np.testing.assert_allclose(p, [0.05, 0.95, 0.05], rtol=1e-6)
