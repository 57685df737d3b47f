"""Oracles of the heads that look at logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsense.detector import Scored
from sparsense.oracles.oracle import ORACLES


@ORACLES.register("msp")
@torch.no_grad()
def msp(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """1 - max softmax(f / T)."""
    temperature: float = scored.head.temperature  # type: ignore[attr-defined]
    return (1 - torch.softmax(module(inputs) / temperature, dim=1).amax(dim=1)).numpy()


@ORACLES.register("max_logit")
@torch.no_grad()
def max_logit(_scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """-max f."""
    return -module(inputs).amax(dim=1).numpy()


@ORACLES.register("energy")
@torch.no_grad()
def energy(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """-T logsumexp(f / T)."""
    temperature: float = scored.head.temperature  # type: ignore[attr-defined]
    return -(temperature * torch.logsumexp(module(inputs) / temperature, dim=1)).numpy()
