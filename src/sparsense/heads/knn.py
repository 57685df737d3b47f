"""Distance to the k-th nearest neighbour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import at_least
from sparsense.heads.head import Array, Head, register
from sparsense.heads.neighbours import check_bank, nearest_distances, unit, unit_rows
from sparsense.heads.sample import sample


@register
class NearestNeighbours(Head):
    """Squared distance of the normalised penultimate features to their k-th nearest neighbour.

    score = ||z - z_(k)||^2,  z = h / ||h||, z_(k) the k-th nearest of a bank of in-distribution features

    The bank is part of the file: `bank` rows of F numbers.

    Args:
        k: Which neighbour; 50 is published for CIFAR-10.
        bank: Rows to keep; more fitting data than that is sampled.
        seed: Of the sample.

    Reference:
        Sun et al., "Out-of-distribution detection with deep nearest neighbors", ICML 2022, arXiv:2204.06507.
    """

    name = "knn"

    def __init__(self, *, k: int = 50, bank: int = 5000, seed: int = 0) -> None:
        self.k, self.bank = at_least("k", k, 1), at_least("bank", bank, k)
        self.seed = at_least("seed", seed, 0)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The normalised penultimate features."""
        return unit(network.op, network.features)

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Keep a bank."""
        self.rows_ = unit_rows(sample(observations, self.bank, seed=self.seed))
        check_bank(self.name, len(self.rows_), self.k)
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The k-th smallest of the squared distances.

        Taken about the mean of the bank: where all features point the same way, cosines differ in their last digits.
        """
        rows = self.learnt("rows")
        centre = rows.mean(0).astype(np.float32)
        return nearest_distances(op, op.Sub(observed, centre), rows - centre, self.k)
