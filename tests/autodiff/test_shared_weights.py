"""One weight in several nodes is one layer; its sensitivity is the derivative by the weight, a sum over its uses."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rule_cases.networks import PLAIN, named, weights
from sparsense.autodiff import differentiate, gate_sensitivity, weight_gradient, weighted_layers
from sparsense.autodiff.cost import cost
from sparsense.autodiff.norms import inner_product, sensitivity_norms
from sparsense.detector.gradients import check_gradients
from sparsense.errors import GraphError
from sparsense.graph import ForwardGraph, Session, forward_graph
from sparsense.graph.build import Builder

INPUTS = np.random.default_rng(2).normal(size=(3, 3, 6, 6)).astype(np.float32)
FILTER, MATRIX, BIAS = 0.4 * weights(3, 3, 3, 3), weights(3, 3), weights(3)


def network(build: Callable[[Builder, ir.Value], ir.Value]) -> ForwardGraph:
    x = ir.val("x", ir.DataType.FLOAT, ["N", 3, 6, 6])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="shared")
    graph.outputs.append(build(Builder(graph), x))
    return forward_graph(ir.Model(graph, ir_version=10), PLAIN)


def twice(op: Builder, x: ir.Value) -> ir.Value:
    """A convolution used twice with its bias, a matrix used three times."""
    filters, bias, matrix = named(op, "conv.weight", FILTER), named(op, "conv.bias", BIAS), named(op, "m", MATRIX)
    for _ in range(2):
        x = op.Tanh(op.Conv(x, filters, bias, pads=[1] * 4))
    y = op.Flatten(op.GlobalAveragePool(x))
    for _ in range(3):
        y = op.Tanh(op.MatMul(y, matrix))
    return y


def by_torch(sample: np.ndarray) -> list[np.ndarray]:
    """d sum(y) / dw of both weights, of one sample."""
    filters, matrix = (torch.tensor(w, dtype=torch.float64, requires_grad=True) for w in (FILTER, MATRIX))
    x = torch.tensor(sample[None], dtype=torch.float64)
    for _ in range(2):
        x = torch.tanh(F.conv2d(x, filters, torch.tensor(BIAS, dtype=torch.float64), padding=1))
    y: Tensor = x.mean((2, 3))
    for _ in range(3):
        y = torch.tanh(y @ matrix)
    return [gradient.numpy() for gradient in torch.autograd.grad(y.sum(), [filters, matrix])]


def test_sensitivities_are_those_of_the_weight() -> None:
    """Norms of w * dL/dw, gates, inner products, and the gradients themselves, against torch."""
    found = network(twice)
    layers = weighted_layers(found)
    assert [(layer.name, layer.uses) for layer in layers] == [("conv", 2), ("m", 3)]
    deltas = differentiate(found.op, of=found.output, wrt=[layer.output for layer in layers])
    expected = [by_torch(sample) for sample in INPUTS]
    for index, (layer, weight) in enumerate(zip(layers, (FILTER, MATRIX), strict=True)):
        delta, g = deltas[layer.output], np.asarray([gradients[index] for gradients in expected])
        direction = np.random.default_rng(3).normal(size=weight.shape).astype(np.float32)
        values = [
            *sensitivity_norms(found.op, layer, delta, (1, 2, inf)),
            gate_sensitivity(found.op, layer, delta),
            inner_product(found.op, layer, delta, direction),
            found.op.Mul(*weight_gradient(found.op, layer, delta)),
        ]
        one, two, most, gate, inner, product = Session(found.model, values)(INPUTS)
        elastic = (g * weight).reshape(3, -1)
        channels = (g * weight).sum((2, 3, 4)) if weight.ndim == 4 else (g * weight).sum(1)
        for got, wanted in (
            (one, np.abs(elastic).sum(1)), (two, np.linalg.norm(elastic, axis=1)), (most, np.abs(elastic).max(1)),
            (gate, channels), (inner, (g * direction).reshape(3, -1).sum(1)),
            (np.sort(product.reshape(3, -1)), np.sort(elastic)),
        ):  # fmt: skip
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


def test_finite_differences_agree() -> None:
    """Moving the one weight moves all its uses."""
    assert check_gradients(network(twice), INPUTS) < 1e-6


def test_last_layers_are_counted_by_weight() -> None:
    assert [layer.name for layer in weighted_layers(network(twice), layers=1)] == ["m"]
    assert [layer.name for layer in weighted_layers(network(twice), layers=["Conv"])] == ["conv"]


def test_asking_twice_gives_the_same_values() -> None:
    found = network(twice)
    first, second = weighted_layers(found), weighted_layers(found)
    assert [layer.output for layer in first] == [layer.output for layer in second]


def test_the_cost_counts_every_use() -> None:
    found = network(twice)
    conv, matrix = cost(found, weighted_layers(found))
    assert (conv.weights, conv.forward) == (81, 2 * 36 * 3 * 27)
    assert (matrix.weights, matrix.forward) == (9, 3 * 9)


def differing(how: str) -> Callable[[Builder, ir.Value], ir.Value]:
    """The same filters with another stride, another size of input, or another bias."""

    def build(op: Builder, x: ir.Value) -> ir.Value:
        filters = named(op, "conv.weight", FILTER)
        biases = [named(op, f"bias{i}", weights(3, seed=i)) for i in range(2)]
        first = op.Relu(op.Conv(x, filters, biases[0], pads=[1] * 4, strides=[1 + (how == "size")] * 2))
        bias = biases[how == "bias"]
        strides = [1 + (how == "stride")] * 2
        second = op.Conv(first, filters, bias, pads=[1] * 4, strides=strides)
        return op.Flatten(op.GlobalAveragePool(second))

    return build


@pytest.mark.parametrize("how", ["size", "stride", "bias"])
def test_uses_that_cannot_be_summed_are_refused_by_name(how: str) -> None:
    with pytest.raises(GraphError, match=r"share the weight 'conv' to use it alike, found 'Conv.*' on .*store a copy"):
        weighted_layers(network(differing(how)))


def test_other_layers_of_such_a_network_can_be_asked_for() -> None:
    def build(op: Builder, x: ir.Value) -> ir.Value:
        return op.MatMul(differing("size")(op, x), named(op, "fc.weight", MATRIX))

    assert [layer.name for layer in weighted_layers(network(build), layers="fc")] == ["fc"]
