"""Gradients of whole networks against `vmap(grad)`: weights, inputs, activations, groups of inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import grad, vmap

from rule_cases.both_sides import KINDS, in_double, network_of
from sparsense.autodiff import differentiate, weight_gradient, weighted_layers
from sparsense.graph.grouped import mean_of_groups
from sparsense.graph.run import Session

TOLERANCE = 1e-5


def close(actual: np.ndarray, wanted: np.ndarray) -> None:
    assert actual.shape == wanted.shape
    assert np.abs(actual - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def per_sample(function: Any, weights: Any, inputs: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Gradients of L = |y|^2 / 2 with respect to the weights and the input."""

    def loss(own: Any, x: torch.Tensor) -> torch.Tensor:
        return function(x[None], own, torch.tanh).square().sum() / 2

    plain = {name: w.detach() for name, w in in_double(weights).items()}
    of_weights, of_inputs = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, 0))(plain, torch.tensor(inputs).double())
    return {name: g.numpy() for name, g in of_weights.items()}, of_inputs.numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_inputs_and_groups(kind: str) -> None:
    make, function, weights, shape = KINDS[kind]
    network = network_of(make, shape, weights, "Tanh")
    op, layers = network.op, weighted_layers(network)
    wrt = [*(layer.output for layer in layers), network.target]
    deltas = differentiate(op, of=network.output, wrt=wrt, seed=op.Mul(network.output, 1.0))
    gradients = [weight_gradient(op, layer, deltas[layer.output])[0] for layer in layers]
    groups = [mean_of_groups(op, gradient, 3) for gradient in gradients]
    inputs = np.random.default_rng(1).normal(size=(6, *shape)).astype(np.float32)
    *found, slope = Session(network.model, [*gradients, *groups, deltas[network.target]], threads=1)(inputs)
    wanted, wanted_slope = per_sample(function, weights, inputs)
    close(slope, wanted_slope)
    for layer, gradient, group in zip(layers, found[: len(layers)], found[len(layers) :], strict=True):
        truth = wanted[layer.name].reshape(6, -1)
        close(np.sort(gradient.reshape(6, -1), 1), np.sort(truth, 1))  # the graph has its own order of rows
        means = truth.reshape(2, 3, -1).mean(1)
        close(np.sort(group.reshape(2, -1), 1), np.sort(means, 1))


def test_activations() -> None:
    """Gradient with respect to the features in front of the last layer, and the curvature along it."""
    make, _, weights, shape = KINDS["tokens"]
    network = network_of(make, shape, weights, "Tanh")
    op = network.op
    loss = op.ReduceSum(op.Exp(network.output), [1], keepdims=0)
    slope = differentiate(op, of=loss, wrt=[network.features])[network.features]
    energy = op.ReduceSum(op.Mul(slope, slope), [1], keepdims=0)
    curved = differentiate(op, of=energy, wrt=[network.features])[network.features]
    inputs = np.random.default_rng(1).normal(size=(4, *shape)).astype(np.float32)
    features, first, second = Session(network.model, [network.features, slope, curved], threads=1)(inputs)
    last = in_double(weights)["fc"].detach()
    own = lambda h: (h @ last).exp().sum()  # noqa: E731
    h = torch.tensor(features).double()
    close(first, vmap(grad(own))(h).numpy())
    close(second, vmap(grad(lambda h: grad(own)(h).square().sum()))(h).numpy())
