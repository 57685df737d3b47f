"""Gram matrices of feature maps that leave their usual range."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.autodiff import weighted_layers
from sparsense.autodiff.shapes import dims
from sparsense.errors import CalibrationError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.channel_maps import channel_maps
from sparsense.heads.checks import at_least, flag
from sparsense.heads.contributions import Contributions, channel_names, channels_of, names_of, per_group
from sparsense.heads.halves import parts
from sparsense.heads.head import Array, Head, Stream, register
from sparsense.heads.row_sums import row_sums
from sparsense.heads.sensitivity import concatenated
from sparsense.heads.spool import spooled

LEAST = 1e-6  # of a range's end, which the deviation is divided by
FAINT = 1e-5  # of such an end: sums in float32 are no more exact
PER_CLASS = 10  # fitting inputs for each class on average, for classes to have ranges of their own
HARMLESS = 80  # powers up to 2**80 and from 2**-80: float32 holds them, their sums, and unusually large ones
MAXIMUM = 2**22  # ends of ranges of one kind: a file holds four such tables


@register
class GramMatrices(Head):
    """Deviation of the channels' Gram matrices from the range they have for the predicted class.

    g_lp(x) = row sums of (Z^p Z^pT), to the power 1/p with its sign;  Z [C, positions] of layer l
    d_l(x)  = sum over p and channels of max(min - g, 0) / |min| + max(g - max, 0) / |max|
    score   = sum_l d_l / E[d_l] / max_k softmax(f)_k,  min and max over inputs predicted as the same class

    E[d_l] comes from inputs whose ranges were learnt from other inputs. Layers are those with weights. With fewer than
    10 fitting inputs for each class, or tables of more than 4 million numbers, all classes share their ranges.

    Args:
        powers: p, whole numbers from 1; the publication takes 1 to 10. Layers with very large or small values are
            scaled by a power of two for it, which changes no score.
        layers: Name patterns, operator types, or the number of last layers; default: all weighted layers.
        by_class: False compares with the ranges of all classes.

    Reference:
        Sastry and Oore, "Detecting out-of-distribution examples with Gram matrices", ICML 2020, arXiv:1912.12510.
    """

    name = "gram"
    needs_logits = True

    def __init__(
        self,
        *,
        powers: Sequence[int] | int = (1, 2, 3, 4, 5),
        layers: Sequence[str] | int | None = None,
        by_class: bool = True,
    ) -> None:
        orders = powers if isinstance(powers, Sequence) else [powers]
        if not orders:
            raise ValueError("powers must hold at least one whole number; got none")
        self.powers = tuple(at_least("powers", order, 1) for order in orders)
        self.layers = layers
        self.by_class = flag("by_class", by_class)
        self._channels: list[int] = []
        self._classes = 0
        self._scales: dict[str, float] = {}

    def prepare(self, network: ForwardGraph, stream: Stream) -> None:
        """Find the layers whose values are so large or small that their powers leave float32."""
        op, layers = network.op, weighted_layers(network, layers=self.layers)
        sizes = [op.ReduceMax(op.Abs(layer.output), keepdims=0) for layer in layers]
        found = next(iter(stream(network, sizes)))  # a batch: a power of two more or less changes nothing
        self._scales = {
            layer.name: _steady(float(size), 2 * max(self.powers)) for layer, size in zip(layers, found, strict=True)
        }

    def observe(self, network: ForwardGraph) -> ir.Value:
        """Row sums of all Gram matrices, power by power and layer by layer, then the logits: [N, D + K]."""
        op, layers = network.op, weighted_layers(network, layers=self.layers)
        self._channels, self._classes = channels_of(layers), dims(network.output)[1]
        maps = [channel_maps(op, layer.output, layer) for layer in layers]
        scales = [self._scales.get(layer.name, 1.0) for layer in layers]
        return concatenated(op, [*row_sums(op, maps, self.powers, scales), network.output])

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Learn the ranges, and how far held-out inputs leave them layer by layer."""
        with spooled(observations) as spool:
            if len(spool) < 2:
                raise CalibrationError(
                    f"fitting head {self.name!r}: expected at least 2 inputs, found {len(spool)}", needed=2
                )
            half, total = parts(spool.means, 2), np.zeros(sum(self._widths))
            rows = self._classes if self._by_class(len(spool)) else 1
            for this in (0, 1):
                ranges = self._ranges(spool.blocks(half != this), rows)
                total += sum(_deviations(*seen, *ranges) for seen in self._split(spool.blocks(half == this), rows))
            expected = self._per_layer(total / len(spool))
            self.lowest_, self.highest_ = self._ranges(spool.blocks(), rows)
        per_channel = np.repeat(1 / np.maximum(expected, LEAST), self._channels)
        self.weights_ = np.tile(per_channel, len(self.powers))
        return self

    def _by_class(self, inputs: int) -> bool:
        """Whether every class gets ranges of its own."""
        numbers = self._classes * sum(self._widths)
        return self.by_class and inputs >= PER_CLASS * self._classes and numbers <= MAXIMUM

    @property
    def _widths(self) -> list[int]:
        """Channels of every layer, again for every power: how the row sums are laid out."""
        return self._channels * len(self.powers)

    def _per_layer(self, sums: Array) -> Array:
        """Of all powers and channels of each layer the sum, [D] -> [L]."""
        per_part = np.add.reduceat(sums, np.cumsum([0, *self._widths[:-1]]))
        return np.asarray(per_part.reshape(len(self.powers), -1).sum(0))

    def _split(self, blocks: Iterable[Array], rows: int) -> Iterator[tuple[Array, Array]]:
        """Row sums, and which row of the tables they belong to: that of the predicted class, or the only one."""
        for block in blocks:
            classes = block[:, -self._classes :].argmax(1)
            yield block[:, : -self._classes].astype(np.float64), classes if rows > 1 else np.zeros_like(classes)

    def _ranges(self, blocks: Iterable[Array], rows: int) -> tuple[Array, Array]:
        """Smallest and largest sum for each predicted class, [K, D]; a class never predicted has those of all.

        Ends are moved by a rounding error, lest it be all that leaves the range of a layer that never varies.
        """
        low = np.full((rows, sum(self._widths)), np.inf)
        high = -low
        for sums, classes in self._split(blocks, rows):
            for label in np.unique(classes):
                chosen = sums[classes == label]
                low[label] = np.minimum(low[label], chosen.min(0))
                high[label] = np.maximum(high[label], chosen.max(0))
        low, high = np.where(np.isfinite(low), low, low.min(0)), np.where(np.isfinite(high), high, high.max(0))
        faint = FAINT * self._sizes(np.maximum(np.abs(low), np.abs(high)))
        return low - faint, high + faint

    def _sizes(self, ends: Array) -> Array:
        """Of every channel the largest end of all powers, [K, D]: sums of odd powers may cancel."""
        by_power = ends.reshape(len(ends), len(self.powers), -1)
        return np.asarray(np.broadcast_to(by_power.max(1, keepdims=True), by_power.shape).reshape(ends.shape))

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Deviations from the ranges of the predicted class, summed and divided by its probability."""
        return op.ReduceSum(self._deviation(op, observed), [1], keepdims=0)

    def explain(self, network: ForwardGraph, observed: ir.Value) -> Contributions:
        """What every layer adds."""
        names = names_of(weighted_layers(network, layers=self.layers))
        return Contributions(
            "layers", names, per_group(network.op, self._by_channel(network.op, observed), self._channels)
        )

    def divide(self, network: ForwardGraph, observed: ir.Value, into: str) -> Contributions | None:
        """By channels: what each one's sums add."""
        if into != "channels":
            return super().divide(network, observed, into)
        names = channel_names(weighted_layers(network, layers=self.layers))
        return Contributions("channels", names, self._by_channel(network.op, observed))

    def _by_channel(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Deviations of all powers together, [N, channels]."""
        each = op.Reshape(self._deviation(op, observed), [0, len(self.powers), sum(self._channels)])
        return op.ReduceSum(each, [1], keepdims=0)

    def _deviation(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Weighted deviation of every row sum, over the predicted class's probability: [N, powers * channels]."""
        low, high, weights = (self.learnt(name) for name in ("lowest", "highest", "weights"))
        sums, logits = op.call("Split", observed, [low.shape[1], self._classes], axis=1, outputs=2)
        predicted = op.ArgMax(logits, axis=1, keepdims=0)
        below = op.Sub(_of_class(op, low, predicted), sums)
        above = op.Sub(sums, _of_class(op, high, predicted))
        below, above = (
            op.Mul(away, _of_class(op, weights / np.maximum(np.abs(end), LEAST), predicted))
            for away, end in ((below, low), (above, high))
        )
        outside = op.Max(below, above, 0.0)  # at most one of the two is positive
        return op.Div(outside, op.ReduceMax(op.Softmax(logits, axis=1), [1], keepdims=1))


def _steady(size: float, power: int) -> float:
    """What brings values of this size near 1, a power of two; or 1 where their own powers are harmless."""
    if not 0 < size < math.inf or abs(exponent := math.log2(size)) * power <= HARMLESS:
        return 1.0
    return 2.0 ** -round(exponent)


def _of_class(op: Builder, table: Array, predicted: ir.Value) -> ir.Value | Array:
    """The predicted class's row, or the only one."""
    table = table.astype(np.float32)
    return op.Gather(table, predicted, axis=0) if len(table) > 1 else table


def _deviations(sums: Array, classes: Array, low: Array, high: Array) -> Array:
    """How far sums [n, D] leave the ranges of their classes, summed over the inputs: [D]."""
    low, high = low[classes], high[classes]
    below = np.maximum(low - sums, 0) / np.maximum(np.abs(low), LEAST)
    above = np.maximum(sums - high, 0) / np.maximum(np.abs(high), LEAST)
    return np.asarray((below + above).sum(0))
