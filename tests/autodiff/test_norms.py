"""Norms and inner products against the gradients of single samples."""

from __future__ import annotations

from math import inf

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rule_cases.case import Draw
from rule_cases.layers import LAYERS, Single, delta, single
from rule_cases.settings import RUNS
from sparsense.autodiff.layers import as_layer
from sparsense.autodiff.norms import cosine, inner_product, sensitivity_norms
from sparsense.graph.build import Builder
from sparsense.graph.grouped import mean_of_groups
from sparsense.graph.run import Session

ORDERS = (1, 2, 3, 3.5, 5, 10)


def run(case: Single, outputs: list[ir.Value]) -> list[np.ndarray]:
    return Session(case.model, outputs, threads=1)({"input": case.inputs, "seed": case.seed})


def close(actual: np.ndarray, wanted: np.ndarray, tolerance: float = 2e-5) -> None:
    assert actual.shape == wanted.shape
    np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max(initial=1e-9))


def p_norm(values: np.ndarray, order: float) -> np.ndarray:
    return np.linalg.norm(values.reshape(len(values), -1), ord=order, axis=1)


@pytest.mark.parametrize("kind", LAYERS)
@RUNS
@given(data=st.data())
def test_norms(kind: str, data: st.DataObject) -> None:
    draw = Draw(data.draw)
    case, weighted = LAYERS[kind](draw), draw.choose(True, False)
    truth = case.gradients() * (case.layer.weight if weighted else 1)
    finite = sensitivity_norms(case.op, case.layer, delta(case), ORDERS, times_weight=weighted)
    two = sensitivity_norms(case.op, case.layer, delta(case), times_weight=weighted)
    largest = sensitivity_norms(case.op, case.layer, delta(case), [inf], times_weight=weighted)
    found = run(case, [*finite, *two, *largest])
    for actual, order in zip(found, (*ORDERS, 2, inf), strict=True):
        close(actual, p_norm(truth, order))


@pytest.mark.parametrize("kind", LAYERS)
@RUNS
@given(data=st.data())
def test_inner_product_and_cosine(kind: str, data: st.DataObject) -> None:
    draw = Draw(data.draw)
    case = LAYERS[kind](draw)
    truth, reference = case.gradients(), draw.array(*case.layer.weight.shape)
    outputs = [
        inner_product(case.op, case.layer, delta(case), reference),
        cosine(case.op, case.layer, delta(case), reference),
    ]
    product, angle = run(case, outputs)
    axes = tuple(range(1, truth.ndim))
    close(product, (truth * reference).sum(axes))
    elasticity = truth * case.layer.weight
    lengths = p_norm(elasticity, 2) * np.linalg.norm(reference)
    np.testing.assert_allclose(angle, (elasticity * reference).sum(axes) / lengths, atol=2e-5)


@RUNS
@given(data=st.data())
def test_gram_trick(data: st.DataObject) -> None:
    """Few positions and a wide weight: the norm comes from products of positions."""
    draw = Draw(data.draw)
    weight = draw.array(12, 10).astype(np.float32)
    case = single(draw, [2, 12], lambda op, x: op.MatMul(x, weight), lambda x, w: x @ w)
    (norm,) = sensitivity_norms(case.op, case.layer, delta(case), times_weight=False)
    assert "Unsqueeze" not in {node.op_type for node in case.graph}
    close(run(case, [norm])[0], p_norm(case.gradients(), 2))


@pytest.mark.parametrize("size", [1e-12, 1e-9, 1e6])
def test_high_orders_neither_vanish_nor_overflow(size: float) -> None:
    """|w g|_5 of a tiny or huge gradient in float32."""
    x = ir.val("input", ir.DataType.FLOAT, ["N", 3])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="tiny")
    op = Builder(graph)
    weight = np.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
    layer = as_layer(op.MatMul(x, weight).producer())  # type: ignore[arg-type]
    assert layer is not None
    seed = op.Mul(layer.output, 0.0)
    (norm,) = sensitivity_norms(op, layer, op.Add(seed, size), [5])
    (found,) = Session(ir.Model(graph, ir_version=10), [norm])(np.ones((1, 3), np.float32))
    np.testing.assert_allclose(found, [size * (np.abs(weight) ** 5.0).sum() ** 0.2], rtol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_norms_of_large_layers_keep_their_digits(order: float) -> None:
    """A quarter of a million weights; added one after the other their powers lose three digits more."""
    random = np.random.default_rng(0)
    weight = (random.normal(size=(512, 512)) * np.exp(random.normal(size=(512, 512)))).astype(np.float32)
    x = ir.val("input", ir.DataType.FLOAT, ["N", 3, 512])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="large")
    op = Builder(graph)
    layer = as_layer(op.MatMul(x, weight).producer())  # type: ignore[arg-type]
    assert layer is not None
    (norm,) = sensitivity_norms(op, layer, op.Tanh(layer.output), [order])
    inputs = random.normal(size=(2, 3, 512)).astype(np.float32)
    found, delta = Session(ir.Model(graph, ir_version=10), [norm, op.Tanh(layer.output)], threads=1)(inputs)
    products = np.einsum("npi,npo->nio", inputs.astype(float), delta.astype(float)) * weight
    close(found, p_norm(products, order), 2e-6)


def test_reference_of_another_shape_is_refused() -> None:
    x = ir.val("input", ir.DataType.FLOAT, ["N", 3])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="g")
    op = Builder(graph)
    layer = as_layer(op.MatMul(x, np.ones((3, 2), np.float32)).producer())  # type: ignore[arg-type]
    assert layer is not None
    with pytest.raises(ValueError, match=r"expected the shape \(3, 2\) of its weight, got \(2, 3\)"):
        inner_product(op, layer, layer.output, np.ones((2, 3)))


def test_mean_of_groups() -> None:
    x = ir.val("input", ir.DataType.FLOAT, ["N", 2])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="g")
    op = Builder(graph)
    values = np.arange(12, dtype=np.float32).reshape(6, 2)
    (found,) = Session(ir.Model(graph, ir_version=10), [mean_of_groups(op, x, 3)])(values)
    np.testing.assert_allclose(found, [[2, 3], [8, 9]])
