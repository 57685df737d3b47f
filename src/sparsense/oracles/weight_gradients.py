"""Oracles of the heads that look at raw weight gradients, as the graph's folded weights have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsense.autodiff import Layer, weighted_layers
from sparsense.detector import Scored
from sparsense.oracles.oracle import ORACLES
from sparsense.oracles.sensitivity import arrange, arrangements, folded, gaussian, match_layers

Array = NDArray[np.float64]


@ORACLES.register("purview")
def purview(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Squared norms of the gradients of a sum of log-sigmoids."""
    head: Any = scored.head
    layers = weighted_layers(scored.network, layers=head.layers)
    samples = weight_gradients(module, layers, inputs, lambda f: -torch.nn.functional.logsigmoid(f).sum())
    rows = np.array([[np.log(np.square(gradient).sum()) for gradient in sample] for sample in samples])
    return gaussian(scored, module, inputs, rows)


@ORACLES.register("low_dimensional_gradient")
def low_dimensional_gradient(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Gradients of log-sum-exp in one long row, projected, and all distances to the bank."""
    head: Any = scored.head
    layers, state, scores = weighted_layers(scored.network, layers=head.layers), head.state(), []
    order = arrangements(scored.network, layers)
    for sample in weight_gradients(module, layers, inputs, lambda f: torch.logsumexp(f, 0)):
        rows = [gradient.ravel()[places].ravel() for gradient, places in zip(sample, order, strict=True)]
        z = np.concatenate(rows) @ state["directions"]
        distances = np.square(z / np.linalg.norm(z) - state["rows"]).sum(1)
        scores.append(np.sort(distances)[head.k - 1])
    return np.array(scores)


def weight_gradients(
    module: nn.Module, layers: Sequence[Layer], inputs: Tensor, loss: Callable[[Tensor], Tensor]
) -> Iterator[list[Array]]:
    """Gradients of `loss(logits [K])`, sample by sample: one array per layer, with the layout of the node's weight."""
    modules = match_layers(module, layers, inputs[:1])
    ratios = [folded(layer, found) for layer, found in zip(layers, modules, strict=True)]
    for sample in inputs:
        gradients = torch.autograd.grad(loss(module(sample[None])[0]), [found.weight for found in modules])
        yield [
            arrange(layer, found, gradient / _column(ratio, gradient), "weight")
            for layer, found, gradient, ratio in zip(layers, modules, gradients, ratios, strict=True)
        ]


def _column(ratio: Array, like: Tensor) -> Tensor:
    """A factor per output channel, shaped to meet a weight; ones meet anything."""
    if (ratio == 1).all():
        return torch.ones((), dtype=torch.float64)
    return torch.from_numpy(ratio).reshape(-1, *[1] * (like.dim() - 1))
