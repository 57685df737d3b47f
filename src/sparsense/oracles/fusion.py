"""Oracle of the fusion: the members' own oracles, combined by numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from sparsense.detector import Scored
from sparsense.oracles.oracle import ORACLES


@ORACLES.register("fusion")
def fusion(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """-log p of every member by interpolation, its tail beyond; then the chosen combination."""
    head: Any = scored.head
    columns = []
    for i, member in enumerate(head._heads):
        own = Scored(scored.network, member, scored.score)
        score = np.asarray(ORACLES[member.name](own, module, inputs))
        if head.method == "z":
            mean, spread = head.scales_[i]
            columns.append((score - mean) / spread)
            continue
        knots, slopes = head.knots_[i], head.slopes_[i]
        heights = np.append(0, np.cumsum(slopes[:-1] * np.diff(knots)))
        inside = np.interp(score, knots, heights)
        columns.append(inside + slopes[-1] * np.maximum(score - knots[-1], 0))
    if head.method == "harmonic":
        return np.log(np.exp(columns).sum(0))
    if head.method == "cauchy":
        p = np.minimum(np.exp(-np.array(columns)), 0.99)
        statistic = np.mean(1 / np.tan(np.pi * p), axis=0)
        return np.sign(statistic) * np.log1p(np.abs(statistic))
    return np.sum(columns, axis=0)
