"""Heads that look at channels and positions, where samples are not rows: one function, written in five ways."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from observing import ROWS
from sparsense.autodiff import weighted_layers
from sparsense.data.dataset import Dataset
from sparsense.detector import fit_head
from sparsense.graph import Builder, ForwardGraph, Session, forward_graph
from sparsense.heads import HEADS

RANDOM = np.random.default_rng(0)
FIRST, LAST = (RANDOM.normal(size=shape).astype(np.float32) for shape in [(2, 4), (4, 3)])
DATA = Dataset("fit", RANDOM.normal(size=(60, 6)).astype(np.float32))
ORDERS = {"rows": "first", "windows": "outer", "frames": "inner", "time": "second", "shared": "inner"}
OTHERS = [layout for layout in ORDERS if layout != "rows"]


def network(layout: str) -> ForwardGraph:
    """3 tokens of 2 numbers -> 4 channels of each -> their mean -> 3 logits."""
    graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, ["N", 6])], [], nodes=[], opset_imports={"": 20})
    graph.name, op = layout, Builder(graph)
    weight = op.constant(FIRST, "first.weight")
    mean = _shared(op, weight) if layout == "shared" else _tokens(op, weight, layout)
    graph.outputs.append(op.Gemm(mean, LAST, np.zeros(3, np.float32)))
    return forward_graph(ir.Model(graph, ir_version=10), ROWS)


def _shared(op: Builder, weight: ir.Value) -> ir.Value:
    """The layer three times, once on each token."""
    tokens = [op.Slice(op.graph.inputs[0], [i], [i + 2], [1]) for i in (0, 2, 4)]
    return op.Mul(op.Sum(*(op.Relu(op.Gemm(token, weight)) for token in tokens)), 1 / 3)


def _tokens(op: Builder, weight: ir.Value, layout: str) -> ir.Value:
    """The layer once, on all tokens."""
    axis = 0 if layout in ("frames", "time") else 1
    tokens = op.Reshape(op.graph.inputs[0], np.array([0, 3, 2]))
    tokens = op.Transpose(tokens, perm=[1, 0, 2]) if axis == 0 else tokens
    if layout in ("rows", "time"):
        return op.ReduceMean(op.Relu(op.MatMul(tokens, weight)), [axis], keepdims=0)
    hidden = op.Relu(op.Gemm(op.Reshape(tokens, np.array([-1, 2])), weight))
    return op.ReduceMean(op.Reshape(hidden, np.array([3, -1, 4] if axis == 0 else [-1, 3, 4])), [axis], keepdims=0)


@pytest.mark.parametrize("layout", ORDERS)
def test_the_layouts_are_what_they_are_called(layout: str) -> None:
    first, _ = weighted_layers(network(layout))
    assert (first.order, first.uses) == (ORDERS[layout], 3 if layout == "shared" else 1)


@pytest.mark.parametrize("layout", OTHERS)
@pytest.mark.parametrize("name", ["gram", "gaia_z", "gaia_a"])
def test_parts_of_a_sample_are_positions_wherever_they_lie(name: str, layout: str) -> None:
    def observed(of: str) -> np.ndarray:
        graph = network(of)
        return Session(graph.model, [HEADS[name]().observe(graph)], threads=1)(DATA.inputs)[0]

    expected = observed("rows")
    assert len(expected) == len(DATA)
    assert len(np.unique(expected[:, 0])) > 2
    np.testing.assert_allclose(observed(layout), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", OTHERS)
@pytest.mark.parametrize("name", ["fusion", "gram", "gaia_a"])
def test_scores_are_those_of_rows_too(name: str, layout: str) -> None:
    def scores(of: str) -> np.ndarray:
        return fit_head(network(of), HEADS[name](), DATA, preprocessing=ROWS).scores(3 * DATA.inputs)

    np.testing.assert_allclose(scores(layout), scores("rows"), rtol=2e-3, atol=1e-3)
