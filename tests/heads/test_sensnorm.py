"""SensNorm against what must be true of sensitivities."""

from __future__ import annotations

from copy import deepcopy
from math import inf
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from observing import linear_network
from sparsense.autodiff import weighted_layers
from sparsense.data.dataset import Dataset
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector import fit_head, parity_inputs
from sparsense.graph import Builder, ForwardGraph, Session, forward_graph
from sparsense.heads import HEADS
from sparsense.heads.loss import cross_entropy_seed, elasticity_seed
from sparsense.heads.sensitivity import layer_distances, layer_norms, sensitivities
from sparsense.oracles import oracle_scores
from sparsense.oracles.sensitivity import arrangements, elasticities
from sparsense.parity import Parity, compare
from tiny_classifier import tiny_data, tiny_graph, tiny_network


def homogeneous_network() -> ForwardGraph:
    """Two convolutions and a linear layer with ReLUs between, no biases: f(c w_l) = c f for every layer."""
    graph = ir.Graph(
        [ir.val("x", ir.DataType.FLOAT, ["N", 2, 6, 6])], [], nodes=[], opset_imports={"": 20}, name="relu"
    )
    op, random = Builder(graph), np.random.default_rng(1)
    weight = lambda *shape: random.standard_normal(shape).astype(np.float32)  # noqa: E731
    x = op.Relu(op.Conv(graph.inputs[0], weight(4, 2, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]))
    x = op.Relu(op.Conv(x, weight(5, 4, 3, 3)))
    graph.outputs.append(op.MatMul(op.Flatten(x, axis=1), weight(5, 3)))
    return forward_graph(ir.Model(graph, ir_version=10), Preprocessing("NCHW", "uint8"))


def evaluate(network: ForwardGraph, values: list[ir.Value], inputs: Any) -> list[Any]:
    return Session(network.model, values, threads=1)(inputs)


def test_signed_sensitivities_of_every_layer_sum_to_one() -> None:
    network = homogeneous_network()
    found = sensitivities(network, weighted_layers(network), elasticity_seed(network), structure="weight")
    inputs = np.random.default_rng(0).integers(0, 256, (8, 2, 6, 6)).astype(np.uint8)
    *layers, logits = evaluate(network, [*found, network.output], inputs)
    alive = logits.max(1) > 0.1  # a dead input has no sensitivities
    assert alive.sum() >= 4
    for values in layers:
        np.testing.assert_allclose(values[alive].sum((1, 2)), 1, rtol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_gates_are_sums_over_the_weights_of_a_channel(bias: bool) -> None:
    network = tiny_graph(bias=bias).copy()
    layers = weighted_layers(network)
    weights, gates = (
        sensitivities(network, layers, elasticity_seed(network), structure=structure)
        for structure in ("weight", "channel")
    )
    found = evaluate(network, [*weights, *gates], tiny_data("test", 10, seed=5).inputs)
    places = arrangements(tiny_graph(bias=bias), weighted_layers(tiny_graph(bias=bias)))
    for layer, place, weight, gate in zip(layers, places, found[:3], found[3:], strict=True):
        last = layer.node.op_type == "MatMul" or (
            layer.node.op_type == "Gemm" and not layer.node.attributes.get_int("transB", 0)
        )
        own = np.empty((len(weight), layer.weight.size))
        own[:, place.ravel()] = weight.reshape(len(weight), -1)
        own = own.reshape(len(weight), *layer.weight.shape)
        expected = own.sum(1) if last else own.reshape(*own.shape[:2], -1).sum(2)
        np.testing.assert_allclose(gate, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("structure", ["weight", "channel"])
def test_norms_and_distances_are_those_of_numpy(structure: str) -> None:
    """Of sensitivities so small that high powers would be nothing in float32."""
    orders, random = (1, 1.5, 2, 3, 5, 8, 11, inf), np.random.default_rng(0)
    network = tiny_graph().copy()
    op, layers = network.op, weighted_layers(network)
    size = 1e-6
    seed = op.Mul(elasticity_seed(network), size)
    plain = sensitivities(network, layers, seed, structure=structure)
    references = [size * random.standard_normal([int(n) for n in value.shape[1:]]) for value in plain]
    norms = layer_norms(network, layers, seed, orders, structure=structure)
    away = [
        layer_distances(network, layers, seed, references, order=order, structure=structure, signed=signed)
        for order in orders
        for signed in (True, False)
    ]
    values = evaluate(network, [*plain, norms, *away], tiny_data("test", 10, seed=5).inputs)
    values, found, away = values[: len(layers)], values[len(layers)], values[len(layers) + 1 :]
    values = [value.astype(float).reshape(10, -1) for value in values]
    expected = [[np.linalg.norm(value, p, axis=1) for value in values] for p in orders]
    np.testing.assert_allclose(found.reshape(10, len(layers), -1), np.transpose(expected), rtol=1e-5)
    for p, signed, unsigned in zip(orders, away[::2], away[1::2], strict=True):
        for layer, (value, reference) in enumerate(zip(values, references, strict=True)):
            fixed = reference.ravel().astype(np.float32)
            wanted = np.linalg.norm(value - fixed, p, axis=1)
            np.testing.assert_allclose(signed[:, layer], wanted, rtol=1e-5)
            wanted = np.linalg.norm(np.abs(value) - np.abs(fixed), p, axis=1)
            np.testing.assert_allclose(unsigned[:, layer], wanted, rtol=1e-5)


def scored(head: Any, data: Dataset) -> Any:
    return fit_head(tiny_graph(), head, data, preprocessing=tiny_network().preprocessing)


@pytest.mark.parametrize("order", [1, 2, 5, inf])
def test_without_reference_the_score_is_the_mean_norm(order: float) -> None:
    data = tiny_data("test", 10, seed=5)
    network = tiny_graph().copy()
    layers = weighted_layers(network)
    values = evaluate(
        network, sensitivities(network, layers, elasticity_seed(network), structure="weight"), data.inputs
    )
    expected = np.mean([[np.linalg.norm(v.ravel(), order) for v in layer] for layer in values], axis=0)
    found = scored(HEADS["sensnorm"](p=order, reference="none"), data).scores(data.inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def reference_by_torch(data: Dataset, labels: Any) -> list[Any]:
    """w * mean gradient of the true logit / mean true logit, in the layout of torch."""
    network = tiny_network()
    inputs = torch.from_numpy(network.preprocessing.apply(data.inputs)).double()
    module = deepcopy(network.module).double()
    logit = module(inputs)[range(len(data)), labels].mean()
    weights = [module.stem.weight, module.block.weight, module.head.weight]
    gradients = torch.autograd.grad(logit, weights)
    return [(w * g / logit).detach().numpy() for w, g in zip(weights, gradients, strict=True)]


@pytest.mark.parametrize("labelled", [True, False])
def test_the_reference_is_that_of_the_whole_training_set(labelled: bool) -> None:
    data = tiny_data("fit", 100, seed=0)
    network = tiny_network()
    with torch.no_grad():
        predicted = network.module(torch.from_numpy(network.preprocessing.apply(data.inputs))).argmax(1)
    assert (predicted.numpy() != data.labels).any()
    expected = reference_by_torch(data, data.labels if labelled else predicted)
    found = scored(HEADS["sensnorm"](), data if labelled else Dataset("unlabelled", data.inputs)).head.state()
    layers = weighted_layers(tiny_graph())
    for layer, place, wanted in zip(layers, arrangements(tiny_graph(), layers), expected, strict=True):
        turned = layer.weight.shape != wanted.shape
        np.testing.assert_allclose(
            found[f"reference.{layer.name}"], (wanted.T if turned else wanted).ravel()[place], rtol=1e-3, atol=1e-7
        )


@pytest.mark.parametrize("reference", ["train", "none"])
@pytest.mark.parametrize(
    "options",
    [
        {"loss": "cross_entropy"},
        {"loss": "cross_entropy", "structure": "channel", "signed": False},
        {"sensitivity": "crop"},
        {"sensitivity": "crop", "loss": "cross_entropy", "signed": False, "p": 2},
    ],
)
def test_other_losses_and_second_derivatives_are_those_of_autograd(options: dict[str, Any], reference: str) -> None:
    found = scored(HEADS["sensnorm"](reference=reference, **options), tiny_data("fit", 100, seed=0))
    inputs = parity_inputs(tiny_data("other", 64, seed=1).inputs)
    parity = Parity(inputs, oracle_scores(found, tiny_network(), inputs), "torch", 1e-5)
    assert all(row["agrees"] for row in compare(found.scores, parity))
    assert found.scores(inputs).std() > 0


def test_the_mean_of_second_derivatives_is_the_reference_of_crop() -> None:
    """Over inputs taken one by one, with the predicted classes."""
    data = tiny_data("fit", 20, seed=0)
    network = tiny_network()
    state = scored(HEADS["sensnorm"](sensitivity="crop"), data).head.state()
    layers, places = weighted_layers(tiny_graph()), arrangements(tiny_graph(), weighted_layers(tiny_graph()))
    inputs = torch.from_numpy(network.preprocessing.apply(data.inputs)).double()
    samples = elasticities(deepcopy(network.module).double(), layers, inputs, structure="weight", curved=True)
    for layer, place, values in zip(layers, places, zip(*samples, strict=True), strict=True):
        expected = np.mean(values, axis=0).ravel()[place]
        np.testing.assert_allclose(
            state[f"reference.{layer.name}"], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
        )


def test_the_reference_of_a_cross_entropy_divides_sums() -> None:
    data, network = tiny_data("fit", 100, seed=0), tiny_network()
    state = scored(HEADS["sensnorm"](loss="cross_entropy", layers=["head"]), data).head.state()
    module = deepcopy(network.module).double()
    inputs, labels = torch.from_numpy(network.preprocessing.apply(data.inputs)).double(), torch.tensor(data.labels)
    loss = torch.nn.functional.cross_entropy(module(inputs), labels)
    (gradient,) = torch.autograd.grad(loss, [module.head.weight])
    expected = (module.head.weight * gradient / loss).detach().numpy()
    found = state["reference.head"]
    np.testing.assert_allclose(found, expected if found.shape == expected.shape else expected.T, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("margin", [0.5, 1.0, 5.0, 12.0, 17.0])
def test_the_seed_of_a_cross_entropy_keeps_its_digits(margin: float) -> None:
    """Down to losses below epsilon, where 1 - p is nothing in float32."""
    logits = torch.tensor([[margin, 0.3, -1.0]], dtype=torch.float64, requires_grad=True)
    loss = torch.log1p(torch.exp(logits[0, 1:] - logits[0, 0]).sum())
    (expected,) = torch.autograd.grad((loss + 1e-8).log(), logits)
    network = linear_network(np.eye(3), np.zeros(3))
    (found,) = Session(network.model, [cross_entropy_seed(network)], threads=1)(logits.detach().numpy().astype("f4"))
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_unsigned_differences_are_of_absolute_values() -> None:
    data = tiny_data("fit", 100, seed=0)
    signed, unsigned = (scored(HEADS["sensnorm"](signed=flag, p=1), data).scores(data.inputs) for flag in (True, False))
    assert (unsigned <= signed * (1 + 1e-5)).all()  # ||a| - |b|| <= |a - b|
    assert (unsigned < 0.99 * signed).any()


def test_layers_can_be_chosen() -> None:
    data = tiny_data("fit", 100, seed=0)
    assert list(scored(HEADS["sensnorm"](layers=["head"]), data).head.state()) == ["reference.head"]
    last = scored(HEADS["sensnorm"](layers=1), data).scores(data.inputs)
    np.testing.assert_allclose(scored(HEADS["sensnorm"](layers=["head"]), data).scores(data.inputs), last)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sensnorm", {"p": 0.5}), ("sensnorm", {"p": float("nan")}), ("sensnorm", {"reference": "test"}),
        ("sensnorm", {"structure": "filter"}), ("sensnorm", {"loss": "mse"}), ("sensnorm", {"sensitivity": "x"}),
        ("sensnorm", {"sensitivity": "crop", "structure": "channel"}),
        ("sensnorm", {"signed": 1}), ("sensnorm_profile", {"p": [2, 0]}),
        ("sensnorm_profile", {"shrinkage": 1.5}), ("sensnorm_profile", {"by_class": "yes"}), ("knn", {"k": 0}),
        ("knn", {"k": 10, "bank": 9}), ("knn", {"k": 1.5}), ("ash", {"kind": "q"}), ("vra", {"low": 90, "high": 80}),
        ("msp", {"temperature": 0}), ("energy", {"temperature": inf}), ("odin", {"epsilon": -1}),
        ("fusion", {"members": ["energy"]}), ("fusion", {"members": ["energy", "fusion"]}),
        ("fusion", {"members": ["energy", "enrgy"]}), ("fusion", {"members": "energy"}),
        ("fusion", {"members": ["energy", {"name": "knn", "options": {"q": 1}}]}), ("fusion", {"folds": 1}),
    ],
)  # fmt: skip
def test_options_that_cannot_work_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        HEADS[name](**options)
