"""Nodes behind a switch: run when asked, and no trace of what nobody needs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sparsense.detector.switch import behind_switch
from sparsense.graph import Builder, Session


@pytest.fixture
def model() -> ir.Model:
    """score = -(x + 1); behind the switch exp((x + 1)^2); and a dead node that looks at the square."""
    graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, ["N", 2])], [], nodes=[], opset_imports={"": 20}, name="g")
    op = Builder(graph)
    shared = op.Add(graph.inputs[0], 1.0)
    score, square = op.Neg(shared), op.Mul(shared, shared)
    wanted = op.Exp(square)
    op.Abs(square)
    graph.outputs.append(score)
    graph.outputs.extend(behind_switch(graph, {"explanation": wanted}, [score]).values())
    return ir.Model(graph, ir_version=10)


def test_only_what_is_always_needed_stays_outside(model: ir.Model) -> None:
    assert [node.op_type for node in model.graph] == ["Add", "Neg", "If"]
    inner = list(model.graph[2].attributes["then_branch"].as_graph())
    assert [node.op_type for node in inner] == ["Mul", "Exp"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_it_gives_rows_only_when_it_is_asked(model: ir.Model) -> None:
    session, x = Session(model, threads=1), np.array([[0, 1], [2, -1], [0.5, 0]], np.float32)
    score, nothing = session({"x": x})
    np.testing.assert_array_equal(score, -(x + 1))
    assert nothing.shape == (0, 2)
    score, explanation = session({"x": x, "explain": np.asarray(True)})
    np.testing.assert_array_equal(score, -(x + 1))
    np.testing.assert_allclose(explanation, np.exp((x + 1) ** 2), rtol=1e-6)


def test_nodes_added_later_keep_their_own_names(model: ir.Model) -> None:
    again = ir.from_proto(ir.to_proto(model))
    op = Builder(again.graph)
    again.graph.outputs.append(op.Exp(op.Mul(again.graph.outputs[0], 2.0)))
    x = np.array([[0, 1]], np.float32)
    np.testing.assert_allclose(Session(again, threads=1)({"x": x})[2], np.exp(-2 * (x + 1)), rtol=1e-6)
