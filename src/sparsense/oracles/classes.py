"""Oracles of the heads that compare features with the predicted class."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from sparsense.detector import Scored
from sparsense.oracles.features import last_linear, weights
from sparsense.oracles.oracle import ORACLES


@ORACLES.register("she")
def she(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """-h . pattern of the predicted class."""
    layer, found = last_linear(module, inputs)
    weight, bias = weights(layer)
    patterns = scored.head.state()["patterns"]
    return np.array([-h @ patterns[np.argmax(weight @ h + bias)] for h in found])


@ORACLES.register("fdbd")
def fdbd(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Mean distance to the boundaries, class by class."""
    layer, found = last_linear(module, inputs)
    weight, bias = weights(layer)
    deviation = scored.head.regulariser == "deviation"  # type: ignore[attr-defined]
    mean = scored.head.state()["mean"] if deviation else 0
    scores = []
    for h in found:
        logits = weight @ h + bias
        best = int(np.argmax(logits))
        others = [c for c in range(len(logits)) if c != best]
        distances = [(logits[best] - logits[c]) / np.linalg.norm(weight[best] - weight[c]) for c in others]
        scores.append(-np.mean(distances) / np.linalg.norm(h - mean))
    return np.array(scores)


@ORACLES.register("nci")
def nci(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """-(w . direction) - alpha ||h||_1."""
    layer, found = last_linear(module, inputs)
    weight, bias = weights(layer)
    alpha: float = scored.head.alpha  # type: ignore[attr-defined]
    mean, scores = scored.head.state()["mean"], []
    for h in found:
        alignment = weight[np.argmax(weight @ h + bias)] @ (h - mean) / np.linalg.norm(h - mean)
        scores.append(-alignment - alpha * np.abs(h).sum())
    return np.array(scores)


@ORACLES.register("nnguide")
def nnguide(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Confidence times mean of the best guidances."""
    layer, found = last_linear(module, inputs)
    weight, bias = weights(layer)
    head: Any = scored.head
    bank, scores = head.state()["rows"], []
    for h in found:
        guidance = np.sort(bank @ h / max(np.linalg.norm(h), 1e-12))[-head.k :].mean()
        logits = weight @ h + bias
        scores.append(-guidance * (np.log(np.exp(logits - logits.max()).sum()) + logits.max()))
    return np.array(scores)
