"""Oracles of the heads that look at penultimate features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsense.detector import Scored
from sparsense.errors import ExportError
from sparsense.oracles.oracle import ORACLES


@torch.no_grad()
def features(module: nn.Module, inputs: Tensor) -> tuple[Tensor, nn.Linear]:
    """What goes into the linear layer that runs last, [N, F], and that layer."""
    seen: list[tuple[nn.Linear, Tensor]] = []
    linears = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(lambda m, args, _: seen.append((m, args[0]))) for layer in linears]
    module(inputs)
    for hook in hooks:
        hook.remove()
    if not seen:
        raise ExportError("checking a head on penultimate features: expected a network with an nn.Linear, found none")
    return seen[-1][1], seen[-1][0]


@ORACLES.register("mahalanobis")
def mahalanobis(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Distance to each class mean in turn, with the precision matrix itself."""
    state = scored.head.state()
    precision = state["whitening"].T @ state["whitening"]
    found = features(module, inputs)[0].numpy()
    return np.array([min((h - m) @ precision @ (h - m) for m in state["means"]) for h in found])
