"""Networks that are no usual classifier: every head gives a score that means something, or says what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from observing import ROWS
from sparsense.data.dataset import Dataset
from sparsense.detector import calibrated, fit_head
from sparsense.errors import CalibrationError, GraphError, InputError
from sparsense.graph import Builder, ForwardGraph, Session, forward_graph
from sparsense.heads import HEADS

CLASSIFIERS = [name for name in HEADS if HEADS[name].task != "reconstruction"]
WITHOUT_CLASSES = [  # compare an input with fitting data, or look at gradients of the one logit
    "gaia_z", "gram", "grood", "knn", "mahalanobis", "nci", "purview",
    "residual", "sensnorm", "sensnorm_gates", "sensnorm_profile", "sensnorm_profile_knn", "she",
]  # fmt: skip
TAKE_LOGITS = [  # apply a softmax, or add logits up
    "energy", "entropy", "fusion", "gen", "gram", "kl_matching", "low_dimensional_gradient", "max_logit", "msp", "odin",
    "openmax", "purview", "temperature_scaling",
]  # fmt: skip
RANDOM = np.random.default_rng(0)
DATA = Dataset("fit", RANDOM.normal(size=(200, 5)).astype(np.float32), np.zeros(200, int))


def rows_network(classes: int, activation: str = "Relu") -> ForwardGraph:
    """5 numbers -> 8 hidden ones -> logits."""
    random = np.random.default_rng(1)
    graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, ["N", 5])], [], nodes=[], opset_imports={"": 20})
    graph.name, op = "rows", Builder(graph)
    shapes: Any = [(5, 8), (8, classes)]
    first, last = (random.normal(size=shape).astype(np.float32) for shape in shapes)
    hidden = op.call(activation, op.Gemm(graph.inputs[0], first, np.full(8, 0.5, np.float32)))[0]
    graph.outputs.append(op.Gemm(hidden, last, np.ones(classes, np.float32)))
    return forward_graph(ir.Model(graph, ir_version=10), ROWS)


WEIGHT = np.random.default_rng(2).normal(size=(2, 4)).astype(np.float32)


def tokens_network() -> ForwardGraph:
    """3 tokens of 2 numbers -> 4 channels of each -> ReLU -> their mean -> 3 logits."""
    graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, ["N", 6])], [], nodes=[], opset_imports={"": 20})
    graph.name, op = "tokens", Builder(graph)
    hidden = op.Relu(op.MatMul(op.Reshape(graph.inputs[0], np.array([0, -1, 2])), WEIGHT))
    last = np.random.default_rng(3).normal(size=(4, 3)).astype(np.float32)
    graph.outputs.append(op.Gemm(op.ReduceMean(hidden, [1], keepdims=0), last, np.zeros(3, np.float32)))
    return forward_graph(ir.Model(graph, ir_version=10), ROWS)


def test_channels_of_tokens_are_not_the_tokens() -> None:
    """GAIA-Z: an entry's gradient is 0 where the ReLU behind it is off."""
    inputs = RANDOM.normal(size=(50, 6)).astype(np.float32)
    scored = fit_head(tokens_network(), HEADS["gaia_z"](), Dataset("fit", inputs), preprocessing=ROWS)
    shares = (inputs.reshape(-1, 3, 2) @ WEIGHT > 0).mean(1)
    np.testing.assert_allclose(scored.scores(inputs), np.square(shares).mean(1), rtol=1e-5)


def fitted(name: str, network: ForwardGraph, **options: Any) -> Any:
    return fit_head(network, HEADS[name](**options), DATA, preprocessing=ROWS)


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name not in WITHOUT_CLASSES])
def test_one_logit_is_compared_with_no_other(name: str) -> None:
    """Energy and logit would call one of the two answers anomalous, the others give the same score to everything."""
    with pytest.raises((GraphError, CalibrationError), match=r"expected (labels of )?at least 2 classes, found"):
        fitted(name, rows_network(1))


@pytest.mark.parametrize("name", WITHOUT_CLASSES)
def test_one_logit_is_enough_for_heads_that_compare_inputs(name: str) -> None:
    scores = fitted(name, rows_network(1)).scores(RANDOM.normal(size=(50, 5)).astype(np.float32))
    assert np.isfinite(scores).all()
    assert scores.std() > 0


def test_a_score_that_never_changes_is_no_detector() -> None:
    """Without a ReLU no entry of a gradient is 0."""
    scored = fitted("gaia_z", rows_network(3, "Tanh"))
    with pytest.raises(CalibrationError, match="'gaia_z': expected scores that differ, found 1 for all 200 inputs"):
        calibrated(scored, scored.judge(DATA.inputs), 0.05)


def squashed(network: ForwardGraph, activation: str) -> ForwardGraph:
    """The same with an activation behind the logits."""
    network = network.copy()
    network.output = network.op.call(activation, network.output, **({} if activation == "Sigmoid" else {"axis": 1}))[0]
    return network


@pytest.mark.parametrize("activation", ["Sigmoid", "Softmax"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_probabilities_are_not_taken_for_logits(name: str, activation: str) -> None:
    """Heads on features find no last layer; those that compare gradients or activations have a score."""
    network = squashed(rows_network(3), activation)
    if name in TAKE_LOGITS:
        with pytest.raises(InputError, match=f"fitting head '{name}': expected logits, found probabilities"):
            fitted(name, network)
        return
    try:
        scored = fitted(name, network)
    except GraphError as error:
        assert "expected the output to come from a fully connected layer" in str(error)  # noqa: PT017
    else:
        assert np.isfinite(scored.scores(DATA.inputs)).all()


def test_a_loss_of_logits_is_no_loss_of_probabilities() -> None:
    network = squashed(rows_network(3), "Softmax")
    with pytest.raises(InputError, match="fitting head 'sensnorm': expected logits, found probabilities"):
        fitted("sensnorm", network, loss="cross_entropy")
    fitted("sensnorm", network, loss="logit")
    fitted("energy", squashed(rows_network(3), "LogSoftmax"))  # logits, but for a constant


def overflowing(op: Builder, x: ir.Value) -> ir.Value:
    """Huge numbers become infinite, and the logits partly no numbers."""
    random = np.random.default_rng(1)
    first, last = (random.normal(size=shape).astype(np.float32) for shape in [(5, 8), (8, 3)])
    return op.Gemm(op.Relu(op.Gemm(op.Exp(x), first)), last)


def rooted(op: Builder, x: ir.Value) -> ir.Value:
    """Logits each from an input of its own: one that is negative leaves the others as they are."""
    return op.Sqrt(op.Gemm(x, np.diag([1.0, 2.0, 3.0, 0.1, 0.1]).astype(np.float32)[:, :3]))


@pytest.mark.parametrize("make", [overflowing, rooted])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_what_is_not_a_number_is_an_anomaly(name: str, make: Any) -> None:
    """Also where a head looks at the largest of several numbers, clips them, or counts."""
    graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, ["N", 5])], [], nodes=[], opset_imports={"": 20}, name="strange")
    graph.outputs.append(make(Builder(graph), graph.inputs[0]))
    network = forward_graph(ir.Model(graph, ir_version=10), ROWS)
    random, session = np.random.default_rng(4), Session(network.model, [network.output])
    usual, strange = (random.uniform(0.1, 2, size=(count, 5)).astype(np.float32) for count in (900, 30))
    strange[np.arange(30), np.arange(30) % 3] = 200 if make is overflowing else -1
    data = Dataset("fit", usual, session(usual)[0].argmax(1))
    if make is rooted:
        try:
            scored = fit_head(network, HEADS[name](), data, preprocessing=ROWS)
        except GraphError as error:
            assert "expected the output to come from a fully connected layer" in str(error)  # noqa: PT017
            return
    else:
        scored = fit_head(network, HEADS[name](), data, preprocessing=ROWS)
    broken = np.isnan(session(strange)[0]).any(1)
    assert broken.sum() >= 10
    assert np.isnan(scored.scores(strange)[broken]).all()
    assert np.isfinite(scored.scores(usual)).all()


def test_directions_that_would_fill_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """(5 x 8 + 8 x 3) weights times 3 classes."""
    monkeypatch.setattr("sparsense.heads.low_dimensional_gradient.MAXIMUM", 191)
    with pytest.raises(InputError, match="at most 191 numbers in its directions, found 64 weights in 2 layers"):
        fitted("low_dimensional_gradient", rows_network(3))
    fitted("low_dimensional_gradient", rows_network(3), layers=1)


@pytest.mark.parametrize("name", ["gaia_a", "gaia_z"])
@pytest.mark.parametrize("layers", [None, 1])
def test_gradients_inside_a_network_need_a_layer_before_the_last(name: str, layers: int | None) -> None:
    graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, ["N", 5])], [], nodes=[], opset_imports={"": 20}, name="linear")
    graph.outputs.append(Builder(graph).Gemm(graph.inputs[0], RANDOM.normal(size=(5, 3)).astype(np.float32)))
    network = rows_network(3) if layers else forward_graph(ir.Model(graph, ir_version=10), ROWS)
    with pytest.raises(GraphError, match=f"before the last one to match {layers}, found none; choose other layers"):
        fit_head(network, HEADS[name](layers=layers), DATA, preprocessing=ROWS)
