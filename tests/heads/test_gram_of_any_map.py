"""Gram matrices where maps are unusual: channels behind the tokens, values whose powers leave float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from observing import ROWS
from sparsense.data.dataset import Dataset
from sparsense.detector import fit_head
from sparsense.detector.second_opinion import second_opinion
from sparsense.graph import Builder, ForwardGraph, Session, forward_graph
from sparsense.heads import HEADS

RANDOM = np.random.default_rng(0)
FIRST, LAST = (RANDOM.normal(size=shape).astype(np.float32) for shape in [(2, 4), (4, 3)])
DATA = Dataset("fit", RANDOM.normal(size=(120, 6)).astype(np.float32))


def tokens_network(scale: float = 1.0) -> ForwardGraph:
    """3 tokens of 2 numbers -> 4 channels of each -> their mean -> 3 logits; `scale` changes no logit."""
    graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, ["N", 6])], [], nodes=[], opset_imports={"": 20})
    graph.name, op = "tokens", Builder(graph)
    tokens = op.Reshape(graph.inputs[0], np.array([0, -1, 2]))
    hidden = op.Relu(op.MatMul(tokens, FIRST * np.float32(scale)))
    mean = op.Mul(op.ReduceMean(hidden, [1], keepdims=0), 1 / scale)
    graph.outputs.append(op.Gemm(mean, LAST, np.zeros(3, np.float32)))
    return forward_graph(ir.Model(graph, ir_version=10), ROWS)


def test_channels_of_tokens_are_the_last_axis() -> None:
    network = tokens_network()
    head = HEADS["gram"](powers=[1, 2])
    (found,) = Session(network.model, [head.observe(network)], threads=1)(DATA.inputs)
    maps = (DATA.inputs.reshape(-1, 3, 2) @ FIRST).transpose(0, 2, 1)  # [N, 4, 3]
    first = (maps @ maps.transpose(0, 2, 1)).sum(2)
    second = np.sqrt((maps**2 @ (maps**2).transpose(0, 2, 1)).sum(2))
    np.testing.assert_allclose(found[:, :4], first, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[:, 7:11], second, rtol=1e-4)


def scores(scale: float) -> np.ndarray:
    return fit_head(tokens_network(scale), HEADS["gram"](), DATA, preprocessing=ROWS).scores(3 * DATA.inputs)


@pytest.mark.parametrize("size", [2.0**8, 2.0**-11])
def test_scaling_by_a_power_of_two_changes_no_score(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tenth powers that float32 can still hold."""
    scaled = scores(size)
    monkeypatch.setattr("sparsense.heads.gram.HARMLESS", 200)
    assert scaled.max() > 1
    np.testing.assert_allclose(scaled, scores(size), rtol=1e-4)


@pytest.mark.parametrize("size", [2.0**30, 2.0**-30])
def test_values_whose_powers_leave_float32_are_scored(size: float) -> None:
    found = scores(size)
    assert np.isfinite(found).all()
    assert found.std() > 0


def test_a_layer_that_never_varies_adds_no_rounding() -> None:
    """A dead unit's answer is a bias for all inputs; float64 has other digits of its sums than float32."""
    graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, ["N", 6])], [], nodes=[], opset_imports={"": 20})
    graph.name, op, random = "dead", Builder(graph), np.random.default_rng(1)
    wide, narrow, bias = (random.normal(size=shape).astype(np.float32) for shape in [(6, 8), (8, 8), (8,)])
    hidden = op.Relu(op.Gemm(graph.inputs[0], wide, np.full(8, 0.5, np.float32)))
    dead = op.Relu(op.Gemm(hidden, np.abs(narrow) * -1, np.full(8, -1, np.float32)))
    constant = op.Gemm(dead, narrow, bias)
    graph.outputs.append(op.Gemm(op.Add(hidden, constant), wide[:3].T.repeat(2, 0)[:8], np.zeros(3, np.float32)))
    network = forward_graph(ir.Model(graph, ir_version=10), ROWS)
    scored = fit_head(network, HEADS["gram"](), DATA, preprocessing=ROWS)
    assert scored.scores(3 * DATA.inputs).std() > 0.1
    parity = second_opinion(scored, 3 * DATA.inputs[:16], tolerance=1e-5)
    assert len(parity.inputs) > 12
    np.testing.assert_allclose(scored.scores(parity.inputs), parity.scores, rtol=1e-4, atol=1e-4)
