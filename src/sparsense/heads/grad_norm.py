"""GradNorm in closed form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.errors import NotFittedError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.graph.run import Session
from sparsense.heads.checks import at_least, one_of, positive
from sparsense.heads.head import Array, Stream, register
from sparsense.heads.logits import competing
from sparsense.heads.noise import noise_like
from sparsense.heads.sample import sample
from sparsense.heads.shaping import FeatureHead

NOISE, ROWS = 200, 20_000  # inputs whose median decides the direction


@register
class GradNorm(FeatureHead):
    """Size of the last layer's gradient when the network is asked to answer "any class alike".

    score = -|| dKL(uniform || softmax(f / T)) / dW ||_1 * T = -||h||_1 * sum_k |p_k - 1 / K|

    The gradient is an outer product, so its norm needs no backward pass. Known to do badly on small CIFAR networks.
    Where anomalies have the larger gradients, as can happen with vision transformers, it points the wrong way round.

    Args:
        temperature: T, positive; 1 is published.
        direction: `published`: small gradients are anomalous. `reversed`: large ones. `calibrated`: whichever way
            noise, which shows nothing, lies from the fitting data (by medians); the choice is in the state as +1 or -1.
        seed: Of the noise.

    Reference:
        Huang, Geng, Li, "On the importance of gradients for detecting distributional shifts in the wild", NeurIPS 2021,
        arXiv:2110.00218.
    """

    name = "grad_norm"
    learns = False

    def __init__(self, *, temperature: float = 1.0, direction: str = "published", seed: int = 0) -> None:
        self.temperature = positive("temperature", temperature)
        self.direction = one_of("direction", direction, ("published", "reversed", "calibrated"))
        self.seed = at_least("seed", seed, 0)
        self.learns = direction == "calibrated"
        self._noise: Array | None = None

    def prepare(self, network: ForwardGraph, stream: Stream) -> None:
        """Measure the gradients of noise, where the direction depends on them."""
        if self.direction != "calibrated":
            return
        inputs = noise_like(network, stream, NOISE, self.seed)
        session = Session(network.model, [self._size(network.op, super().observe(network))])
        self._noise = np.concatenate([session(inputs[i : i + 64])[0] for i in range(0, len(inputs), 64)])

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:
        """Learn on which side of the fitting data noise lies."""
        if self.direction != "calibrated":
            return super().fit(observations, labels)
        if self._noise is None:
            raise NotFittedError(f"head {self.name!r} has seen no noise; call prepare(network, stream) first")
        usual = self._sizes(sample(observations, ROWS))
        self.direction_ = np.asarray(1.0 if np.median(self._noise) >= np.median(usual) else -1.0)
        return self

    def _sizes(self, rows: Array) -> Array:
        logits = (rows @ self.layer.weight + self.layer.bias) / self.temperature
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return np.asarray(np.abs(p - 1 / p.shape[1]).sum(1) * np.abs(rows).sum(1))

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The size of the gradient, in the direction in which anomalies lie."""
        size = self._size(op, observed)
        sign = float(self.learnt("direction")) if self.learns else {"published": -1.0, "reversed": 1.0}[self.direction]
        return size if sign > 0 else op.Neg(size)

    def _size(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The product of both norms, [N]."""
        p = op.Softmax(op.Mul(competing(self.layer.logits(op, observed)), 1 / self.temperature), axis=1)
        away = op.ReduceSum(op.Abs(op.Sub(p, 1 / self.layer.weight.shape[1])), [1], keepdims=0)
        return op.Mul(away, op.ReduceSum(op.Abs(observed), [1], keepdims=0))
