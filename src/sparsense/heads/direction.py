"""Which way a score points: as published, turned round, or as noise says."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar, Self

import numpy as np
import onnx_ir as ir

from sparsense.errors import NotFittedError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.graph.run import Session
from sparsense.heads.checks import at_least, one_of
from sparsense.heads.head import Array, Head, Stream
from sparsense.heads.noise import noise_like
from sparsense.heads.sample import Sample

NOISE, ROWS = 200, 2000  # inputs whose medians decide the direction


class Turned(Head):
    """A head on a size that is larger for anomalies with some networks, and smaller with others.

    score = +-size; a subclass says what the size is, and which sign was published.
    """

    published: ClassVar[float]
    _noise: Array | None = None

    def turn(self, direction: str, seed: int) -> None:
        """Take the options."""
        self.direction = one_of("direction", direction, ("published", "reversed", "calibrated"))
        self.seed = at_least("seed", seed, 0)
        self.learns = type(self).learns or direction == "calibrated"

    @abstractmethod
    def size(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Add the nodes of the size, [N]."""

    def learn(self, observations: Iterable[Array], labels: Array | None = None) -> None:  # noqa: ARG002
        """Learn what the size needs; the default: nothing."""
        for _ in observations:
            if self.direction != "calibrated":
                break

    def prepare(self, network: ForwardGraph, stream: Stream) -> None:
        """Observe noise, where the direction depends on it."""
        if self.direction != "calibrated":
            return
        inputs, session = noise_like(network, stream, NOISE, self.seed), Session(network.model, [self.observe(network)])
        self._noise = np.concatenate([session(inputs[i : i + 64])[0] for i in range(0, len(inputs), 64)])

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:
        """Learn the size, and on which side of the fitting data noise lies."""
        if self.direction != "calibrated":
            self.learn(observations, labels)
            return self
        if self._noise is None:
            raise NotFittedError(f"head {self.name!r} has seen no noise; call prepare(network, stream) first")
        keeper = Sample(ROWS, seed=self.seed)
        self.learn(keeper.watch(observations), labels)
        noise, usual = (np.median(self._sizes(rows)) for rows in (self._noise, keeper.rows()))
        self.direction_ = np.asarray(1.0 if noise >= usual else -1.0)
        return self

    def _sizes(self, rows: Array) -> Array:
        graph = ir.Graph(
            [ir.val("rows", ir.DataType.FLOAT, ["N", rows.shape[1]])], [], nodes=[], opset_imports={"": 20}
        )
        graph.name = self.name
        size = self.size(Builder(graph), graph.inputs[0])
        return Session(ir.Model(graph, ir_version=10), [size], threads=1)(rows.astype(np.float32))[0]

    @property
    def sign(self) -> float:
        """+1 where large sizes are anomalous, -1 where small ones are."""
        if self.direction == "calibrated":
            return float(self.learnt("direction"))
        return self.published if self.direction == "published" else -self.published

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The size, in the direction in which anomalies lie."""
        size = self.size(op, observed)
        return size if self.sign > 0 else op.Neg(size)
