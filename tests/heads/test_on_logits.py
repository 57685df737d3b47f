"""Heads on logits against closed forms and scipy."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from scipy import optimize, special, stats

from sparsense.autodiff.shapes import dims
from sparsense.errors import CalibrationError, InputError
from sparsense.graph import Builder
from sparsense.heads import HEADS
from sparsense.heads.evaluate import score_observations
from sparsense.heads.weibull import fit_tail

logits = stn.arrays(np.float32, (6, 5), elements=st.floats(-30, 30, width=32))


def score(name: str, rows: Any, **options: Any) -> np.ndarray:
    return score_observations(HEADS[name](**options), np.asarray(rows, np.float32))


@settings(max_examples=25, deadline=None)
@given(logits)
def test_energy_is_minus_log_sum_exp(rows: np.ndarray) -> None:
    expected = -special.logsumexp(rows.astype(float), axis=1)
    np.testing.assert_allclose(score("energy", rows), expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(logits)
def test_entropy_is_that_of_scipy(rows: np.ndarray) -> None:
    expected = stats.entropy(special.softmax(rows.astype(float), axis=1), axis=1)
    np.testing.assert_allclose(score("entropy", rows), expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(logits)
def test_msp_is_the_rest_of_the_softmax(rows: np.ndarray) -> None:
    ordered = np.sort(special.softmax(rows.astype(float), axis=1), axis=1)
    np.testing.assert_allclose(score("msp", rows), ordered[:, :-1].sum(1), rtol=1e-5)


def test_msp_keeps_its_digits_for_sure_inputs() -> None:
    assert score("msp", [[60, 0, 0]])[0] == pytest.approx(2 * np.exp(-60), rel=1e-6)


@pytest.mark.parametrize("name", ["msp", "energy", "max_logit", "entropy", "gen"])
def test_extreme_logits_stay_finite(name: str) -> None:
    assert np.isfinite(score(name, [[3e4, -3e4, 0], [-3e4, -3e4, -3e4], [0, 0, 0]])).all()


@pytest.mark.parametrize(
    ("name", "value"), [("msp", 2 / 3), ("energy", -np.log(3)), ("max_logit", 0), ("entropy", np.log(3))]
)
def test_all_classes_alike(name: str, value: float) -> None:
    assert score(name, [[0, 0, 0]])[0] == pytest.approx(value, rel=1e-6)


def test_temperature_divides_the_logits() -> None:
    rows = np.random.default_rng(0).normal(0, 5, (20, 4))
    for name, factor in (("msp", 1), ("entropy", 1), ("energy", 7)):
        np.testing.assert_allclose(score(name, rows, temperature=7), factor * score(name, rows / 7), rtol=1e-5)


def test_gen_sums_the_largest() -> None:
    rows = np.random.default_rng(0).normal(0, 3, (20, 6))
    p = np.sort(special.softmax(rows, axis=1), axis=1)[:, ::-1]
    for top in (1, 3, 6, 100):
        expected = ((p * (1 - p)) ** 0.1)[:, :top].sum(1)
        np.testing.assert_allclose(score("gen", rows, top=top), expected, rtol=1e-5)


def test_temperature_scaling_finds_the_temperature_that_labels_were_drawn_at() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(0, 6, (4000, 5))
    labels = np.array([random.choice(5, p=p) for p in special.softmax(rows / 2.5, axis=1)])
    head = HEADS["temperature_scaling"]().fit([rows[:1000], rows[1000:]], labels)
    assert float(head.state()["temperature"]) == pytest.approx(2.5, rel=0.1)

    def loss(log_t: float) -> float:
        return -special.log_softmax(rows / np.exp(log_t), axis=1)[np.arange(4000), labels].mean()

    best = np.exp(optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}).x)
    assert float(head.state()["temperature"]) == pytest.approx(best, rel=1e-5)


def test_temperature_of_labels_without_a_fault_stays_finite() -> None:
    rows = np.eye(3)[[0, 1, 2, 0]]
    head = HEADS["temperature_scaling"]().fit([rows], np.array([0, 1, 2, 0]))
    assert 0 < float(head.state()["temperature"]) < np.inf
    margins = score_observations(head, np.array([[3.0, 2.0, 1.0], [3.0, 2.5, 1.0], [3.0, 2.9, 2.9]]))
    assert margins[0] < margins[1] < margins[2] < 0  # 1 - p is 0 for all of them in float32


def test_temperature_scaling_gives_the_odds_against_the_predicted_class() -> None:
    rows = np.random.default_rng(0).normal(0, 3, (300, 4))
    head = HEADS["temperature_scaling"]().fit([rows], np.random.default_rng(1).integers(0, 4, 300))
    p = special.softmax(rows / float(head.state()["temperature"]), axis=1).max(1)
    np.testing.assert_allclose(score_observations(head, rows), np.log((1 - p) / p), rtol=1e-4, atol=1e-5)


def test_kl_matching_is_zero_at_a_template_and_grows_away_from_it() -> None:
    log_p = np.log([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    head = HEADS["kl_matching"]().fit([log_p])
    np.testing.assert_allclose(head.state()["templates"], np.exp(log_p))
    found = score_observations(head, np.log([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]]))
    expected = [0, stats.entropy([0.6, 0.2, 0.2], [0.8, 0.1, 0.1]), stats.entropy([0.1, 0.1, 0.8], [0.8, 0.1, 0.1])]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_kl_matching_keeps_its_digits_next_to_a_template_of_many_classes() -> None:
    random = np.random.default_rng(0)
    usual = special.log_softmax(random.normal(size=(4, 300)) + 3 * np.eye(4, 300), axis=1)
    head = HEADS["kl_matching"]().fit([usual])
    rows = special.log_softmax(usual + 1e-2 * random.normal(size=usual.shape), axis=1).astype(np.float32)
    expected = stats.entropy(np.exp(rows.astype(float)).T, np.exp(usual).T)
    assert expected.max() < 1e-4
    np.testing.assert_allclose(score_observations(head, rows), expected, atol=2e-7)


def test_weibull_tail_is_that_of_scipy() -> None:
    distances = np.random.default_rng(0).gamma(5, 1, 300)
    location, scale, shape = fit_tail(distances, 20)
    assert location == pytest.approx(np.sort(distances)[-20] - 1)
    expected_shape, _, expected_scale = stats.weibull_min.fit(np.sort(distances)[-20:] - location, floc=0)
    assert (shape, scale) == pytest.approx((expected_shape, expected_scale), rel=1e-4)


def test_a_tail_of_equal_distances_does_not_overflow() -> None:
    assert np.isfinite(fit_tail(np.ones(5), 20)).all()


def openmax_data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    return 10 * np.eye(3)[labels] + random.normal(0, 1, (90, 3)), labels


def test_openmax_prefers_the_unknown_far_from_every_mean() -> None:
    head = HEADS["openmax"]().fit([openmax_data()[0]], openmax_data()[1])
    usual, between, far = score_observations(head, np.array([[10, 0, 0], [6, 6, 6], [40, 0, 0]]))
    assert usual < between < far
    assert far > 0  # the unknown class is the likeliest


def test_openmax_near_a_mean_takes_nothing() -> None:
    rows, labels = openmax_data()
    head = HEADS["openmax"](alpha=1, tail=5).fit([rows], labels)
    mean = rows[labels == 0].mean(0)
    assert score_observations(head, mean[None])[0] == pytest.approx(-special.logsumexp(mean), rel=1e-4)


def test_openmax_of_many_classes_compares_with_the_likeliest_only() -> None:
    """Of 200 classes no value has more than 3 x 200 numbers for an input."""
    random = np.random.default_rng(0)
    rows = (random.normal(size=(800, 200)) + 9 * np.eye(200)[np.arange(800) % 200]).astype(np.float32)
    head = HEADS["openmax"]().fit([rows], np.arange(800) % 200)
    graph = ir.Graph([ir.val("f", ir.DataType.FLOAT, ["N", 200])], [], nodes=[], opset_imports={"": 20})
    head.score(Builder(graph), graph.inputs[0])
    shapes = [dims(output) for node in graph for output in node.outputs]
    assert max(prod(shape[1:]) for shape in shapes if shape[:1] == ["N"]) == 600


def test_openmax_names_the_class_it_knows_too_little_about() -> None:
    rows, labels = openmax_data()
    keep = (labels != 1) | (np.arange(90) < 6)
    with pytest.raises(
        CalibrationError, match="at least 3 correctly classified inputs of every class, found 2 of class 1"
    ):
        HEADS["openmax"]().fit([rows[keep]], labels[keep])


def test_labels_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match="expected a label for each of 90 observations, found 80"):
        HEADS["openmax"]().fit([openmax_data()[0]], openmax_data()[1][:80])
