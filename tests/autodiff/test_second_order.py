"""w * (H g), sample by sample, against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rule_cases.both_sides import KINDS, Weights, in_double, network_of
from sparsense.autodiff import weighted_layers
from sparsense.autodiff.second_order import hessian_gradient
from sparsense.graph.run import Session


def products_in_torch(function: Any, weights: Weights, act: Any, inputs: np.ndarray, power: int) -> dict[str, Any]:
    """w * (H g) of L = sum y^power / power, one sample after the other, in float64."""
    found: dict[str, Any] = {name: [] for name in weights}
    for row in torch.tensor(inputs, dtype=torch.float64):
        own = in_double(weights)
        loss = function(row[None], own, act).pow(power).sum() / power
        slopes = torch.autograd.grad(loss, list(own.values()), create_graph=True)
        total = sum(slope.square().sum() for slope in slopes) / 2
        for name, product in zip(own, torch.autograd.grad(total, list(own.values())), strict=True):
            found[name].append((own[name] * product).detach().numpy())
    return {name: np.stack(values) for name, values in found.items()}


@pytest.mark.parametrize(
    ("activate", "act", "power"), [("Relu", torch.relu, 2), ("Softplus", F.softplus, 1), ("Tanh", torch.tanh, 2)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_hessian_times_gradient(kind: str, activate: str, act: Any, power: int) -> None:
    make, function, weights, shape = KINDS[kind]
    network = network_of(make, shape, weights, activate)
    op, layers = network.op, weighted_layers(network)
    seed = op.Mul(network.output, 1.0) if power == 2 else op.Add(op.Mul(network.output, 0.0), 1.0)
    found = hessian_gradient(op, of=network.output, layers=layers, seed=seed)
    elasticities = [op.Mul(product, weight) for product, weight in found]
    inputs = np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32)
    actual = Session(network.model, elasticities, threads=1)(inputs)
    wanted = products_in_torch(function, weights, act, inputs, power)
    assert sorted(layer.name for layer in layers) == sorted(weights)
    for layer, product in zip(layers, actual, strict=True):
        expected = np.sort(wanted[layer.name].reshape(3, -1), axis=1)  # the graph has its own order of rows and columns
        assert np.abs(expected).max() > 1e-6
        close = np.abs(np.sort(product.reshape(3, -1), axis=1) - expected).max() / np.abs(expected).max()
        assert close < 1e-5, f"{layer.name}: off by {close:.1e}"
