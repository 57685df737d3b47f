"""Gram matrices of feature maps that leave their usual range."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.autodiff import weighted_layers
from sparsense.autodiff.shapes import dims, rank
from sparsense.errors import CalibrationError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import at_least
from sparsense.heads.classes import finite
from sparsense.heads.contributions import Contributions, names_of, per_group
from sparsense.heads.halves import parts
from sparsense.heads.head import Array, Head, register
from sparsense.heads.loss import predicted_class
from sparsense.heads.sensitivity import concatenated

LEAST = 1e-6  # of a range's end, which the deviation is divided by


@register
class GramMatrices(Head):
    """Deviation of the channels' Gram matrices from the range they have for the predicted class.

    g_lp(x) = row sums of (Z^p Z^pT), to the power 1/p with its sign;  Z [C, positions] of layer l
    d_l(x)  = sum over p and channels of max(min - g, 0) / |min| + max(g - max, 0) / |max|
    score   = sum_l d_l / E[d_l] / max_k softmax(f)_k,  min and max over inputs predicted as the same class

    E[d_l] comes from inputs whose ranges were learnt from other inputs. Layers are those with weights.

    Args:
        powers: p, whole numbers from 1; the publication takes 1 to 10, which can overflow float32.
        layers: Name patterns, operator types, or the number of last layers; default: all weighted layers.

    Reference:
        Sastry and Oore, "Detecting out-of-distribution examples with Gram matrices", ICML 2020, arXiv:1912.12510.
    """

    name = "gram"

    def __init__(
        self, *, powers: Sequence[int] | int = (1, 2, 3, 4, 5), layers: Sequence[str] | int | None = None
    ) -> None:
        orders = powers if isinstance(powers, Sequence) else [powers]
        self.powers = tuple(at_least("powers", order, 1) for order in orders)
        self.layers = layers
        self._widths: list[int] = []

    def observe(self, network: ForwardGraph) -> ir.Value:
        """Row sums of all Gram matrices, then the logits: [N, layers * powers * channels + K]."""
        op, layers = network.op, weighted_layers(network, layers=self.layers)
        columns = [_row_sums(op, layer.output, power) for layer in layers for power in self.powers]
        per_layer = [dims(layer.output)[1] * len(self.powers) for layer in layers]
        self._widths = [*per_layer, dims(network.output)[1]]
        return concatenated(op, [*columns, network.output])

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Learn the ranges, and how far held-out inputs leave them layer by layer."""
        rows = np.concatenate([finite(batch).astype(np.float32) for batch in observations])
        if len(rows) < 2:
            raise CalibrationError(
                f"fitting head {self.name!r}: expected at least 2 inputs, found {len(rows)}", needed=2
            )
        sums, classes = rows[:, : -self._widths[-1]].astype(np.float64), rows[:, -self._widths[-1] :].argmax(1)
        half, total = parts(rows, 2), np.zeros(sums.shape[1])
        for this in (0, 1):
            low, high = self._ranges(sums[half != this], classes[half != this])
            held_out = classes[half == this]
            total += _deviations(sums[half == this], low[held_out], high[held_out]).sum(0)
        starts = np.cumsum([0, *self._widths[:-2]])
        expected = np.add.reduceat(total, starts) / len(rows)
        self.weights_ = np.repeat(1 / np.maximum(expected, LEAST), self._widths[:-1])
        self.lowest_, self.highest_ = self._ranges(sums, classes)
        return self

    def _ranges(self, sums: Array, classes: Array) -> tuple[Array, Array]:
        """Smallest and largest sum for each predicted class, [K, D]; a class never predicted has those of all."""
        low, high = (np.tile(end, (self._widths[-1], 1)) for end in (sums.min(0), sums.max(0)))
        for label in np.unique(classes):
            low[label], high[label] = sums[classes == label].min(0), sums[classes == label].max(0)
        return low, high

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Deviations from the ranges of the predicted class, summed and divided by its probability."""
        return op.ReduceSum(self._deviation(op, observed), [1], keepdims=0)

    def explain(self, network: ForwardGraph, observed: ir.Value) -> Contributions:
        """What every layer adds."""
        layers = weighted_layers(network, layers=self.layers)
        value = per_group(network.op, self._deviation(network.op, observed), self._widths[:-1])
        return Contributions("layers", names_of(layers), value)

    def _deviation(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Weighted deviation of every row sum, over the predicted class's probability: [N, layers * powers * C]."""
        low, high = self.learnt("lowest").astype(np.float32), self.learnt("highest").astype(np.float32)
        width = low.shape[1]
        sums = op.Slice(observed, [0], [width], [1])
        logits = op.Slice(observed, [width], [width + len(low)], [1])
        chosen = predicted_class(op, logits)
        below = op.Max(op.Sub(op.MatMul(chosen, low), sums), 0.0)
        above = op.Max(op.Sub(sums, op.MatMul(chosen, high)), 0.0)
        weights = self.learnt("weights").astype(np.float32)
        low_ends, high_ends = (weights / np.maximum(np.abs(end), LEAST) for end in (low, high))
        parts = op.Add(
            op.Mul(below, op.MatMul(chosen, low_ends.astype(np.float32))),
            op.Mul(above, op.MatMul(chosen, high_ends.astype(np.float32))),
        )
        return op.Div(parts, op.ReduceMax(op.Softmax(logits, axis=1), [1], keepdims=1))


def _row_sums(op: Builder, value: ir.Value, power: int) -> ir.Value:
    """Signed root of sum_j sum_positions z_i^p z_j^p, [N, C], without the matrix itself."""
    raised = value
    for _ in range(power - 1):
        raised = op.Mul(raised, value)
    between = list(range(2, rank(value)))
    product = op.Mul(raised, op.ReduceSum(raised, [1], keepdims=1))
    total = op.ReduceSum(product, between, keepdims=0) if between else product
    return total if power == 1 else op.Mul(op.Sign(total), op.Pow(op.Abs(total), 1 / power))


def _deviations(sums: Array, low: Array, high: Array) -> Array:
    below = np.maximum(low - sums, 0) / np.maximum(np.abs(low), LEAST)
    above = np.maximum(sums - high, 0) / np.maximum(np.abs(high), LEAST)
    return np.asarray(below + above)
