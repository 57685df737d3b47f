"""Oracles of the heads that measure where penultimate features lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsense.detector import Scored
from sparsense.errors import ExportError
from sparsense.oracles.oracle import ORACLES

Array = NDArray[np.float64]


@torch.no_grad()
def features(module: nn.Module, inputs: Tensor) -> Array:
    """What goes into the linear layer that runs last, [N, F]."""
    return last_linear(module, inputs)[1]


@torch.no_grad()
def last_linear(module: nn.Module, inputs: Tensor) -> tuple[nn.Linear, Array]:
    """The linear layer that runs last, and what goes into it."""
    seen: list[tuple[nn.Linear, Tensor]] = []
    linears = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(lambda m, args, _: seen.append((m, args[0]))) for layer in linears]
    module(inputs)
    for hook in hooks:
        hook.remove()
    if not seen:
        raise ExportError("checking a head on penultimate features: expected a network with an nn.Linear, found none")
    return seen[-1][0], seen[-1][1].numpy()


def weights(layer: nn.Linear) -> tuple[Array, Array]:
    """W [K, F] and b [K]."""
    weight = layer.weight.detach().numpy()
    return weight, np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().numpy()


@ORACLES.register("mahalanobis")
def mahalanobis(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Distance to each class mean in turn, with the precision matrix itself."""
    state = scored.head.state()
    precision = state["whitening"].T @ state["whitening"]
    return np.array([min((h - m) @ precision @ (h - m) for m in state["means"]) for h in features(module, inputs)])


@ORACLES.register("relative_mahalanobis")
def relative_mahalanobis(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Distance to the nearest class minus distance to all of them."""
    state = scored.head.state()
    background = state["background"].T @ state["background"]
    offset = features(module, inputs) - state["origin"]
    return mahalanobis(scored, module, inputs) - np.einsum("nf,fg,ng->n", offset, background, offset)


@ORACLES.register("residual")
def residual(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Length of what the principal subspace does not explain: ||h - u - P (h - u)||."""
    layer, found = last_linear(module, inputs)
    weight, bias = weights(layer)
    offset = found + np.linalg.pinv(weight) @ bias
    outside = scored.head.state()["directions"]
    principal = np.eye(len(outside)) - outside @ outside.T
    return np.linalg.norm(offset - offset @ principal, axis=1)


@ORACLES.register("vim")
def vim(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Virtual logit minus log-sum-exp."""
    with torch.no_grad():
        energy = torch.logsumexp(module(inputs), dim=1).numpy()
    return scored.head.state()["scale"] * residual(scored, module, inputs) - energy


@ORACLES.register("knn")
def knn(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """All distances to the bank, sorted."""
    head: Any = scored.head
    scores = []
    for h in features(module, inputs):
        distances = ((h / max(np.linalg.norm(h), 1e-12) - head.state()["rows"]) ** 2).sum(1)
        scores.append(np.sort(distances)[head.k - 1])
    return np.array(scores)
