"""Oracles of the heads that look at logits."""

from __future__ import annotations

from typing import Any

import numpy as np
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


@ORACLES.register("temperature_scaling")
@torch.no_grad()
def temperature_scaling(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """The logarithm of sum_k exp(f_k / T) over all classes but the largest, minus the largest f / T; T learnt."""
    logits = module(inputs) / float(scored.head.state()["temperature"])
    largest, *others = logits.sort(dim=1, descending=True).values.unbind(1)
    return (torch.logsumexp(torch.stack(others, 1), 1) - largest).numpy()


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


@ORACLES.register("entropy")
@torch.no_grad()
def entropy(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """-sum p log p, where p is not 0."""
    temperature: float = scored.head.temperature  # type: ignore[attr-defined]
    return torch.special.entr(torch.softmax(module(inputs) / temperature, dim=1)).sum(dim=1).numpy()


@ORACLES.register("gen")
@torch.no_grad()
def gen(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Sum of (p (1 - p))^gamma over the largest p."""
    head: Any = scored.head
    p = torch.softmax(module(inputs), dim=1).sort(dim=1, descending=True).values[:, : head.top]
    return ((p * (1 - p)) ** head.gamma).sum(dim=1).numpy()


@ORACLES.register("kl_matching")
@torch.no_grad()
def kl_matching(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Smallest divergence from a template, one after the other."""
    p = torch.softmax(module(inputs), dim=1).numpy()
    templates = scored.head.state()["templates"]
    return np.array([min(np.sum(row * np.log(row / template)) for template in templates) for row in p])


@ORACLES.register("openmax")
@torch.no_grad()
def openmax(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Log odds of the unknown class, logit by logit."""
    head: Any = scored.head
    state, scores = head.state(), []
    for logits in module(inputs).numpy():
        revised, unknown = logits.copy(), 0.0
        for rank, label in enumerate(np.argsort(-logits)[: head.alpha]):
            location, scale, shape = state["tails"][label]
            distance = np.linalg.norm(logits - state["means"][label])
            probability = 1 - np.exp(-((max(distance - location, 0) / scale) ** shape))
            alpha = min(head.alpha, len(logits))
            taken = logits[label] * probability * (alpha - rank) / alpha
            revised[label], unknown = logits[label] - taken, unknown + taken
        scores.append(unknown - np.log(np.exp(revised - revised.max()).sum()) - revised.max())
    return np.array(scores)
