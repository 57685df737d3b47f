"""Normalisations, in inference mode."""

from __future__ import annotations

from typing import Any

from sparsense.autodiff.rule import Call, vjp
from sparsense.autodiff.shapes import rank
from sparsense.graph.build import Builder


def _batch_norm(op: Builder, d: Any, c: Call) -> Any:
    """Y = (x - mean) * scale / sqrt(var + epsilon) + bias, per channel: a fixed scaling."""
    _, scale, _, _, variance = c.x[:5]
    gain = op.Div(scale, op.Sqrt(op.Add(variance, c.attribute("epsilon", 1e-5))))
    return op.Mul(d, op.Unsqueeze(gain, list(range(1, rank(c.x[0]) - 1))))


vjp("BatchNormalization", _batch_norm)
