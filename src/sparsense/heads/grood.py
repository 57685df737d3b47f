"""GROOD: what a prototype of "nothing known" would learn from the input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.graph.run import Session
from sparsense.heads.checks import at_least, one_of
from sparsense.heads.classes import ClassMoments, correct_means, finite
from sparsense.heads.features import LastLayer
from sparsense.heads.head import Array, Stream, register
from sparsense.heads.logits import log_sum_exp
from sparsense.heads.neighbours import nearest_row
from sparsense.heads.noise import noise_like
from sparsense.heads.sample import Sample
from sparsense.heads.shaping import FeatureHead

AT_ONCE = 2**16  # numbers of all prototypes: more are not subtracted from every input one by one
LEAST = 1e-12  # of a squared distance, which rounding can take below 0
KEPT = 10  # one in so many noise inputs makes the prototype: those the network is least sure about


@register
class PrototypeGradient(FeatureHead):
    """Distance of the outlier prototype's gradient to the nearest one of an in-distribution input.

    prototypes mu_c = mean features of class c, mu_o = mean features of noise; logits -||h - mu_j||
    g(h)  = pi_o (h - mu_o) / ||h - mu_o||,  pi_o = softmax mass on mu_o: the gradient of the cross-entropy by mu_o
    score = min_i || g(h) - g(h_i) ||  over a bank of in-distribution inputs

    Needs no anomalies: the outlier prototype comes from blurred noise. The bank is part of the file.

    Args:
        classes: `true`: prototypes of the labels' classes, from inputs that are classified correctly; `predicted`: of
            the classes that the network itself sees in the fitting data, which need no labels.
        noise: How many noise inputs are tried; a tenth of them is used.
        bank: Gradients to keep; more fitting data than that is sampled.
        seed: Of noise and sample.

    Reference:
        ElAraby et al., "GROOD: gradient-aware out-of-distribution detection", TMLR 2025, arXiv:2312.14427.
    """

    name = "grood"
    needs_labels = True

    def __init__(self, *, classes: str = "true", noise: int = 500, bank: int = 2000, seed: int = 0) -> None:
        self.classes = one_of("classes", classes, ("true", "predicted"))
        self.noise, self.bank = at_least("noise", noise, KEPT), at_least("bank", bank, 1)
        self.seed = at_least("seed", seed, 0)
        self.needs_labels = self.classes == "true"

    def prepare(self, network: ForwardGraph, stream: Stream) -> None:
        """Place the outlier prototype: mean features of noise that the network is least sure about."""
        self._layer, session = LastLayer.of(network), Session(network.model, [network.features])
        inputs = noise_like(network, stream, self.noise, self.seed)
        rows = np.concatenate([finite(session(inputs[i : i + 64])[0]) for i in range(0, len(inputs), 64)])
        unsure = np.argsort(log_sum_exp(self._logits(rows)), kind="stable")
        self.outlier_ = rows[unsure[: self.noise // KEPT]].mean(0)

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:
        """Learn class prototypes and keep a bank of gradients."""
        keeper = Sample(self.bank, seed=self.seed)
        batches = keeper.watch(observations)
        if self.classes == "true":
            self.means_ = correct_means(batches, labels, self._logits, self.name)
        else:
            found = ((part, self._logits(part).argmax(1)) for part in map(finite, batches))
            self.means_ = ClassMoments.of(found).means
        rows = keeper.rows()
        distances = np.stack([np.linalg.norm(rows - each, axis=1) for each in self._prototypes()], axis=1)
        odds = np.exp(distances.min(1, keepdims=True) - distances)
        mass = odds[:, -1:] / odds.sum(1, keepdims=True)
        self.gradients_ = mass * (rows - self.learnt("outlier")) / distances[:, -1:]
        return self

    def _logits(self, features: Array) -> Array:
        return features @ self.layer.weight + self.layer.bias

    def _prototypes(self) -> Array:
        return np.concatenate([self.learnt("means"), self.learnt("outlier")[None]])

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Gradient, its nearest neighbour, their distance."""
        prototypes = self._prototypes()
        distances, last = _distances(op, observed, prototypes), len(prototypes) - 1
        away = op.Slice(distances, [last], [last + 1], [1])
        mass = op.Slice(op.Softmax(op.Neg(distances), axis=1), [last], [last + 1], [1])
        gradient = op.Mul(op.Sub(observed, prototypes[-1:].astype(np.float32)), op.Div(mass, away))
        difference = op.Sub(gradient, nearest_row(op, gradient, self.learnt("gradients")))
        return op.Sqrt(op.ReduceSumSquare(difference, [1], keepdims=0))


def _distances(op: Builder, rows: ir.Value, points: Array) -> ir.Value:
    """From each row [N, F] to each point [M, F]: [N, M]."""
    if points.size <= AT_ONCE:
        offsets = op.Sub(op.Unsqueeze(rows, [1]), points.astype(np.float32))
        return op.Sqrt(op.ReduceSumSquare(offsets, [2], keepdims=0))
    # ||a - b||^2 = ||a||^2 - 2 a b + ||b||^2 about the points' mean, where least cancels: nothing is [N, M, F]
    centre = points.mean(0)
    rows, points = op.Sub(rows, centre.astype(np.float32)), points - centre
    products = op.Gemm(rows, (-2 * points.T).astype(np.float32), np.square(points).sum(1).astype(np.float32))
    squares = op.Add(products, op.ReduceSumSquare(rows, [1], keepdims=1))
    return op.Sqrt(op.Max(squares, LEAST))
