"""Maximum softmax probability at a temperature learnt from data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.classes import labelled
from sparsense.heads.head import Array, Head, register
from sparsense.heads.logits import log_odds_of_others, softmax
from sparsense.heads.sample import sample

BOUNDS = (1e-3, 1e3)  # of 1 / T; labels that a network predicts without a fault would drive it to infinity
ROWS = 20_000  # more do not move a temperature


@register
class TemperatureScaling(Head):
    """The odds against the predicted class, at the temperature that makes probabilities honest.

    score = log((1 - p) / p),  p = max_k softmax(f / T)_k,  T = argmin sum_i -log softmax(f_i / T)_yi

    1 - p itself, which has the same order, loses its digits at a low temperature. The temperature is best learnt from
    data that the network was not trained on: labels that it predicts without a fault take T to its lower bound.

    Reference:
        Guo et al., "On calibration of modern neural networks", ICML 2017, arXiv:1706.04599.
    """

    name = "temperature_scaling"
    needs_logits = True
    needs_labels = True

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The logits."""
        return network.output

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:
        """Learn T: the likelihood is convex in 1 / T, so its slope is bisected."""
        rows = sample((np.column_stack(part) for part in labelled(observations, labels)), ROWS)
        logits, truth = rows[:, :-1], rows[:, -1].astype(np.int64)
        logits = logits - logits[np.arange(len(logits)), truth][:, None]
        low, high = np.log(BOUNDS)
        for _ in range(60):
            middle = (low + high) / 2
            slope = (softmax(np.exp(middle) * logits) * logits).sum()
            low, high = (middle, high) if slope < 0 else (low, middle)
        self.temperature_ = np.asarray(np.exp(-(low + high) / 2))
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The odds of every other class together."""
        return log_odds_of_others(op, observed, float(self.learnt("temperature")))
