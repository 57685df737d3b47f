"""The fusion: its scale of surprise, its combinations, and that members never judge what they were fitted on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparsense.benchmark.metrics import auroc
from sparsense.detector import Scored, fit_head
from sparsense.errors import GraphError
from sparsense.graph import Builder, Session, forward_graph
from sparsense.heads import HEADS
from sparsense.heads.cauchy import cauchy
from sparsense.heads.fusion import held_out_scores
from sparsense.heads.neighbours import unit_rows
from sparsense.heads.spool import spooled
from sparsense.heads.surprise import SHARES, surprise_knots, surprise_of
from sparsense.oracles import oracle_scores
from tiny_classifier import tiny_data, tiny_graph, tiny_network


def surprise(scores: Any, asked: Any) -> np.ndarray:
    graph = ir.Graph([ir.val("s", ir.DataType.FLOAT, ["N", 1])], [], nodes=[], opset_imports={"": 20}, name="surprise")
    value = surprise_of(Builder(graph), graph.inputs[0], *surprise_knots(np.asarray(scores, float)))
    return Session(ir.Model(graph, ir_version=10), [value])(np.asarray(asked, np.float32)[:, None])[0][:, 0]


def test_surprise_is_minus_log_p_at_the_quantiles() -> None:
    scores = np.random.default_rng(0).gamma(3, 2, 2000)
    np.testing.assert_allclose(surprise(scores, np.quantile(scores, SHARES)), -np.log1p(-SHARES), atol=1e-5)


def test_surprise_of_an_exponential_score_is_the_score() -> None:
    scores = np.random.default_rng(0).exponential(1, 20000)
    np.testing.assert_allclose(surprise(scores, [3.0, 6.0, 20.0]), [3.0, 6.0, 20.0], rtol=0.08)


def test_surprise_below_all_data_is_zero() -> None:
    assert surprise([1.0, 2.0, 3.0], [-1e6, 0.9, 1.0]).tolist() == [0, 0, 0]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=30),
    st.lists(st.floats(-500, 500, width=32), min_size=2),
)
def test_surprise_never_falls_and_stays_finite(scores: list[float], asked: list[float]) -> None:
    found = surprise(scores, sorted(asked))
    assert np.isfinite(found).all()
    assert (np.diff(found) >= -1e-4 * np.abs(found[1:])).all()


@pytest.mark.parametrize("value", [0.0, 1e-20, -3.0, 1e6])
def test_scores_that_are_all_equal_have_a_finite_surprise(value: float) -> None:
    found = surprise([value] * 5, [value - 1, value, value + 341])
    assert np.isfinite(found).all()
    assert found[0] == 0
    assert found[2] > 1


def test_surprise_keeps_the_order_beyond_the_data() -> None:
    found = surprise(np.random.default_rng(0).normal(0, 1, 500), np.linspace(5, 500, 40))
    assert (np.diff(found) > 0).all()


def cauchy_of(surprises: Any) -> np.ndarray:
    rows = np.asarray(surprises, np.float32)
    graph = ir.Graph([ir.val("s", ir.DataType.FLOAT, ["N", rows.shape[1]])], [], nodes=[], opset_imports={"": 20})
    graph.name = "cauchy"
    return Session(ir.Model(graph, ir_version=10), [cauchy(Builder(graph), graph.inputs[0])])(rows)[0]


def test_cauchy_is_a_monotone_function_of_the_published_p_value() -> None:
    p = np.random.default_rng(0).uniform(1e-12, 0.985, (2000, 3)) ** np.array([1, 4, 8])
    combined = stats.cauchy.sf(np.mean(1 / np.tan(np.pi * p), axis=1))
    found = cauchy_of(-np.log(p))
    statistic = 1 / np.tan(np.pi * combined)
    np.testing.assert_allclose(found, np.sign(statistic) * np.log1p(np.abs(statistic)), rtol=2e-4, atol=2e-5)


def test_cauchy_of_dependent_heads_keeps_its_promise() -> None:
    common = np.random.default_rng(0).standard_normal((20_000, 1))
    p = stats.norm.sf(0.9 * common + np.sqrt(0.19) * np.random.default_rng(1).standard_normal((20_000, 4)))
    statistic = np.expm1(np.abs(found := cauchy_of(-np.log(p)))) * np.sign(found)
    assert (stats.cauchy.sf(statistic) <= 0.01).mean() == pytest.approx(0.01, abs=0.003)
    fisher = stats.chi2.sf(-2 * np.log(p).sum(1), 8)
    assert (fisher <= 0.01).mean() > 0.03  # which takes dependent evidence for independent


def test_cauchy_keeps_order_far_beyond_the_range_of_float32() -> None:
    found = cauchy_of([[s, 0.1] for s in (1, 10, 80, 200, 1e4, 1e6)])
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()
    np.testing.assert_allclose(found[2:], np.array([80, 200, 1e4, 1e6]) - np.log(2 * np.pi), rtol=1e-5)


def fused(**options: Any) -> Scored:
    head = HEADS["fusion"](**options)
    return fit_head(tiny_graph(), head, tiny_data("fit", 240, seed=0), preprocessing=tiny_network().preprocessing)


@pytest.mark.parametrize("method", ["fisher", "harmonic", "cauchy", "z"])
@pytest.mark.parametrize(
    "members",
    [["energy", "msp"], ["mahalanobis", "energy", {"name": "sensnorm", "options": {"p": 2, "structure": "channel"}}]],
    ids=["two", "three"],
)
def test_every_method_agrees_with_its_oracle(method: str, members: list[Any]) -> None:
    inputs = tiny_data("test", 24, seed=5).inputs
    scored = fused(members=members, method=method)
    expected = oracle_scores(scored, tiny_network(), inputs)
    scale = np.maximum(np.abs(expected), expected.std())
    assert (np.abs(scored.scores(inputs) - expected) / scale).max() < 1e-5


def test_a_member_that_needs_labels_makes_the_fusion_need_them() -> None:
    assert HEADS["fusion"](members=["mahalanobis", "energy"]).needs_labels
    assert not HEADS["fusion"](members=["knn", "energy"]).needs_labels
    assert not HEADS["fusion"](members=["knn", "energy"]).differentiates
    assert HEADS["fusion"]().differentiates


def test_members_of_one_kind_are_one_head_twice() -> None:
    inputs = tiny_data("test", 24, seed=5).inputs
    twice = fused(members=["energy", "energy"], method="z").scores(inputs)
    alone = tiny_graph().copy()
    energy = Session(alone.model, [HEADS["energy"]().score(alone.op, alone.output)])(inputs)[0]
    assert np.corrcoef(twice, energy)[0, 1] == pytest.approx(1, abs=1e-5)


def test_held_out_scores_are_not_those_of_the_fitted_rows() -> None:
    rows = unit_rows(np.random.default_rng(0).standard_normal((60, 5))).astype(np.float32)
    head = HEADS["knn"](k=1)
    part = np.arange(60) % 3
    with spooled([rows]) as spool:
        found = held_out_scores(head, spool, slice(None), None, part)
    assert found.min() > 1e-4  # its own row would be at distance 0
    assert len(head.state()["rows"]) == 60  # fitted on everything at the end


def test_fusion_detects_what_either_member_detects() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((800, 2))
    strange = [random.standard_normal((300, 2)) + shift for shift in ([4, 0], [0, 4])]
    curves = [surprise_knots(rows[:, i]) for i in (0, 1)]

    def total(values: np.ndarray) -> np.ndarray:
        heights = [np.append(0, np.cumsum(s[:-1] * np.diff(k))) for k, s in curves]
        parts = [
            np.interp(values[:, i], k, h) + s[-1] * np.maximum(values[:, i] - k[-1], 0)
            for i, ((k, s), h) in enumerate(zip(curves, heights, strict=True))
        ]
        return np.sum(parts, axis=0)

    usual = random.standard_normal((800, 2))
    for i, anomalies in enumerate(strange):
        assert auroc(usual[:, 1 - i], anomalies[:, 1 - i]) < 0.6
        assert auroc(total(usual), total(anomalies)) > 0.95


def convolutions(*members: str) -> int:
    """How many nodes run the network forwards or backwards when heads look at it together."""
    network = tiny_graph().copy()
    for member in members:
        HEADS[member]().observe(network)
    return sum(node.op_type in ("Conv", "ConvTranspose") for node in network.model.graph)


def test_members_share_one_pass_forwards_and_one_backwards() -> None:
    assert convolutions("energy") < convolutions("sensnorm_profile")
    assert convolutions("sensnorm_profile", "gram", "energy", "sensnorm_gates") == convolutions("sensnorm_profile")
    assert convolutions("sensnorm_profile", "purview") > convolutions("sensnorm_profile")  # another loss


def convolutional_classifier() -> Any:
    """Logits from a 1 x 1 convolution and a mean: there is no fully connected layer."""
    random = np.random.default_rng(3)
    graph = ir.Graph(
        [ir.val("x", ir.DataType.FLOAT, ["N", 3, 8, 8])], [], nodes=[], opset_imports={"": 20}, name="conv"
    )
    op, weights = (
        Builder(graph),
        [random.standard_normal(shape).astype(np.float32) for shape in [(5, 3, 3, 3), (4, 5, 1, 1)]],
    )
    maps = op.Conv(op.Relu(op.Conv(graph.inputs[0], weights[0])), weights[1], np.full(4, 3, np.float32))
    graph.outputs.append(op.ReduceMean(maps, [2, 3], keepdims=0))
    return forward_graph(ir.Model(graph, ir_version=10), tiny_network().preprocessing)


def test_default_members_are_those_that_suit_the_network_and_need_no_labels() -> None:
    data = replace(tiny_data("fit", 120, seed=0), labels=None)
    for network, expected in [
        (tiny_graph(), ["sensnorm_profile", "gram", "energy", "grood"]),
        (convolutional_classifier(), ["sensnorm_profile", "gram", "energy"]),
    ]:
        head = HEADS["fusion"]()
        found = fit_head(network, head, data, preprocessing=tiny_network().preprocessing)
        assert [member["name"] for member in head.options()["members"]] == expected
        assert np.isfinite(found.scores(data.inputs)).all()


def test_asked_members_are_never_left_out() -> None:
    head = HEADS["fusion"](members=["energy", {"name": "grood", "options": {"classes": "predicted"}}])
    with pytest.raises(GraphError, match="expected the output to come from a fully connected layer"):
        fit_head(
            convolutional_classifier(), head, tiny_data("fit", 60, seed=0), preprocessing=tiny_network().preprocessing
        )


def test_default_agrees_with_its_oracle() -> None:
    inputs = tiny_data("test", 24, seed=5).inputs
    scored = fused()
    expected = oracle_scores(scored, tiny_network(), inputs)
    scale = np.maximum(np.abs(expected), expected.std())
    assert (np.abs(scored.scores(inputs) - expected) / scale).max() < 1e-5
