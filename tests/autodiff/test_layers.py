"""Choosing layers, counting what they cost, and telling beforehand what a gradient cannot cross."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from rule_cases.networks import convolutional, named, weights
from sparsense.autodiff import differentiate, gate_sensitivities, gate_sensitivity, weighted_layers
from sparsense.autodiff.cost import cost
from sparsense.autodiff.layers import as_layer
from sparsense.autodiff.norms import sensitivity_norms
from sparsense.autodiff.preflight import preflight
from sparsense.data.preprocessing import Preprocessing
from sparsense.errors import GraphError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph, forward_graph
from sparsense.graph.run import Session


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (None, ["stem", "body.0", "fc"]),
        (1, ["fc"]),
        (2, ["body.0", "fc"]),
        (99, ["stem", "body.0", "fc"]),
        ("body.*", ["body.0"]),
        (["fc", "stem"], ["stem", "fc"]),
        (["Conv"], ["stem", "body.0"]),
        ("Gemm", ["fc"]),
    ],
)
def test_layers_are_chosen(layers: object, names: list[str]) -> None:
    assert [layer.name for layer in weighted_layers(convolutional(), layers=layers)] == names  # type: ignore[arg-type]


def test_no_layer_fits() -> None:
    with pytest.raises(GraphError, match=r"expected some to match \['head\*'\], found none; layers .*stem, body.0, fc"):
        weighted_layers(convolutional(), layers=["head*"])


def test_nodes_behind_the_output_are_not_layers() -> None:
    network = convolutional()
    network.op.MatMul(network.output, weights(2, 7))
    assert [layer.name for layer in weighted_layers(network)] == ["stem", "body.0", "fc"]


def test_scales_only_when_asked_for() -> None:
    def norm(op, y):  # type: ignore[no-untyped-def]
        scale, bias = named(op, "norm.weight", weights(4)), named(op, "norm.bias", weights(4, seed=1))
        return op.InstanceNormalization(y, scale, bias)

    network = convolutional(norm)
    assert [layer.name for layer in weighted_layers(network)] == ["stem", "body.0", "fc"]
    assert [layer.name for layer in weighted_layers(network, layers="InstanceNormalization")] == ["norm"]
    assert [layer.name for layer in weighted_layers(network, layers=["norm", "fc"])] == ["norm", "fc"]


def test_cost() -> None:
    """Multiply-adds by hand: a 3x3 kernel over 3 channels at 4 x 4 positions, and so on."""
    network = convolutional()
    stem, body, fc = cost(network, weighted_layers(network))
    assert (stem.forward, body.forward, fc.forward) == (4 * 16 * 27, 5 * 16 * 36, 10)
    assert (stem.gate, body.gate) == (4 * 16, 5 * 16 * 36 + 5 * 16)
    assert (stem.weight, body.weight) == (4 * 16 * 27 + 108, 2 * 5 * 16 * 36 + 180)
    assert [row.weights for row in (stem, body, fc)] == [108, 180, 10]


def test_preflight_finds_nothing_in_a_network_with_rules() -> None:
    assert preflight(convolutional()) == []


def test_preflight_names_the_node_and_the_substitute() -> None:
    def sample(op, y):  # type: ignore[no-untyped-def]
        grid = op.Tanh(op.Transpose(op.Slice(y, [0], [2], [1]), perm=[0, 2, 3, 1]))
        return op.GridSample(y, grid)

    (obstacle,) = preflight(convolutional(sample))
    assert (obstacle.node, obstacle.op_type) == ("GridSample", "GridSample")
    assert obstacle.advice.startswith("use Resize")


def tokens(arrange: object) -> ForwardGraph:
    """Rows [N, 12] as 4 tokens of 3 numbers, arranged by somebody, through a matrix, and back to [N, 8]."""
    x = ir.val("x", ir.DataType.FLOAT, ["N", 12])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="tokens")
    op = Builder(graph)
    there, back = arrange(op)  # type: ignore[operator]
    y = op.MatMul(there(op.Reshape(x, [-1, 4, 3])), named(op, "mix.weight", weights(3, 2)))
    y = op.Reshape(back(y), [-1, 8])
    graph.outputs.append(op.MatMul(op.Tanh(y), named(op, "fc.weight", weights(8, 5))))
    return forward_graph(ir.Model(graph, ir_version=10), Preprocessing(layout="ND", dtype="float32", scale=1.0))


ORDERS = {
    "first": lambda op: (lambda x: x, lambda y: y),
    "outer": lambda op: (lambda x: op.Reshape(x, [-1, 3]), lambda y: y),
    "inner": lambda op: (
        lambda x: op.Reshape(op.Transpose(x, perm=[1, 0, 2]), [-1, 3]),
        lambda y: op.Transpose(op.Reshape(y, [4, -1, 2]), perm=[1, 0, 2]),
    ),
    "second": lambda op: (lambda x: op.Transpose(x, perm=[1, 0, 2]), lambda y: op.Transpose(y, perm=[1, 0, 2])),
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_samples_is_found_and_does_not_matter(order: str) -> None:
    """The same network with its tokens arranged in four ways: the same sensitivities."""
    inputs = np.random.default_rng(1).normal(size=(4, 12)).astype(np.float32)
    found = {}
    for name in ("first", order):
        network = tokens(ORDERS[name])
        layer = weighted_layers(network, layers="mix")[0]
        assert layer.order == name
        deltas = differentiate(network.op, of=network.output, wrt=[layer.output])
        norm = sensitivity_norms(network.op, layer, deltas[layer.output])[0]
        gate = gate_sensitivity(network.op, layer, deltas[layer.output])
        found[name] = Session(network.model, [norm, gate])(inputs)
    for one, other in zip(found["first"], found[order], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_mixed_samples_are_refused() -> None:
    """Rows of different samples side by side in one row."""

    def mixed(op: Builder) -> object:
        turned = lambda x: op.Transpose(op.Reshape(x, [-1, 12]), perm=[1, 0])  # noqa: E731
        return lambda x: op.Reshape(turned(x), [-1, 3]), lambda y: op.Reshape(y, [-1, 8])

    with pytest.raises(GraphError, match=r"samples of layer 'mix' \(MatMul\).*cannot be told apart by sample"):
        weighted_layers(tokens(mixed), layers="mix")


def test_gates_of_more_than_a_hundred_layers() -> None:
    """Their sums come side by side from one node and keep their shapes when they are split."""
    graph = ir.Graph(
        [ir.val("x", ir.DataType.FLOAT, ["N", 2, 4, 4])], [], nodes=[], opset_imports={"": 20}, name="deep"
    )
    op, values = Builder(graph), [graph.inputs[0]]
    for index in range(130):
        values.append(op.Conv(values[-1], np.full((2, 2, 1, 1), 0.5 + index / 1000, np.float32)))
    layers = [as_layer(value.producer()) for value in values[1:]]
    deltas = differentiate(op, of=values[-1], wrt=values[1:])
    assert {tuple(map(str, gate.shape)) for gate in gate_sensitivities(op, layers, deltas)} == {("N", "2")}
