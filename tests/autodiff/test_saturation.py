"""Gradients of what is almost decided are small, and keep their digits all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F

from sparsense.autodiff import differentiate
from sparsense.graph.build import Builder
from sparsense.graph.run import Session

FAR = np.concatenate([-np.geomspace(0.1, 25, 40)[::-1], [0.0], np.geomspace(0.1, 25, 40)])
Graph = Callable[[Builder, ir.Value], ir.Value]


def gradients(graph: Graph, function: Callable[[Any], Any], values: np.ndarray, seed: np.ndarray) -> list[np.ndarray]:
    """d sum(f(x) * seed) / dx in float32 from the graph, and in float64 from torch."""
    x = ir.val("x", ir.DataType.FLOAT, ["N", *values.shape[1:]])
    op = Builder(ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="far"))
    found = differentiate(op, of=graph(op, x), wrt=[x], seed=op.constant(seed.astype(np.float32)))[x]
    inputs = values.astype(np.float32)
    (actual,) = Session(ir.Model(op.graph, ir_version=10), [found], threads=1)(inputs)
    wide = torch.tensor(inputs, dtype=torch.float64, requires_grad=True)
    (function(wide) * torch.tensor(seed)).sum().backward()
    assert wide.grad is not None
    return [actual, wide.grad.numpy()]


@pytest.mark.parametrize(
    ("name", "function", "reach"),
    [
        ("Sigmoid", lambda x: torch.sigmoid(-x.abs()), 25),  # even in its slope; torch too cancels above zero
        ("Tanh", lambda x: 2 * torch.sigmoid(-2 * x.abs()), 25),
        ("Softplus", F.softplus, 25),
        ("Mish", F.mish, 10),
    ],
)
def test_slopes_keep_their_digits(name: str, function: Any, reach: float) -> None:
    values = FAR[(np.abs(FAR) <= reach) & (FAR != 0)]
    actual, wanted = gradients(lambda op, x: getattr(op, name)(x), function, values, np.ones_like(values))
    wanted = np.abs(wanted) if name in ("Sigmoid", "Tanh") else wanted
    away = np.abs(wanted) > 1e-3 if name == "Mish" else np.full(len(wanted), True)  # its slope crosses zero
    np.testing.assert_allclose(actual[away], wanted[away], rtol=5e-6)


@pytest.mark.parametrize("gap", [1.0, 6.0, 12.0, 30.0])
@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
def test_sure_rows_keep_their_digits(name: str, gap: float) -> None:
    """The gradient of the predicted class's probability is nothing but the others' share."""
    logits = np.random.default_rng(0).normal(size=(5, 7))
    logits[np.arange(5), [0, 2, 4, 6, 2]] += gap
    seed = np.eye(7)[[0, 2, 4, 6, 2]]
    function = (lambda x: x.softmax(1)) if name == "Softmax" else (lambda x: x.log_softmax(1))
    actual, wanted = gradients(lambda op, x: getattr(op, name)(x, axis=1), function, logits, seed)
    wanted = exact(logits, name == "LogSoftmax") if gap > 20 else wanted
    np.testing.assert_allclose(actual, wanted, rtol=5e-6, atol=1e-5 * np.abs(wanted).min())


def exact(logits: np.ndarray, of_logarithm: bool) -> np.ndarray:
    """p (e - p) or e - p with the predicted class's own entry as the sum of the other shares."""
    logits = logits.astype(np.float32).astype(np.float64)
    rows, top = np.arange(len(logits)), logits.argmax(1)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    others = p.copy()
    others[rows, top] = 0
    gradient = -others
    gradient[rows, top] = others.sum(1)
    return gradient if of_logarithm else gradient * p[rows, top][:, None]


def test_a_gate_of_its_own_input_stays_cheap() -> None:
    """SiLU: the runtime's own digits suffice, and no exponential is added."""
    x = ir.val("x", ir.DataType.FLOAT, ["N", 8, 4, 4])
    op = Builder(ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="silu"))
    differentiate(op, of=op.Mul(x, op.Sigmoid(x)), wrt=[x])
    assert "Exp" not in {node.op_type for node in op.graph}
    actual, wanted = gradients(lambda op, x: op.Mul(x, op.Sigmoid(x)), F.silu, FAR, np.ones_like(FAR))
    np.testing.assert_allclose(actual, wanted, atol=1e-6)
