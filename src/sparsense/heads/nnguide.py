"""NNGuide: energy, guided by the nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.checks import at_least
from sparsense.heads.head import Array, register
from sparsense.heads.logits import free_energy, log_sum_exp
from sparsense.heads.neighbours import check_bank, largest_products, unit, unit_rows
from sparsense.heads.sample import sample
from sparsense.heads.shaping import FeatureHead


@register
class NeighbourGuidance(FeatureHead):
    """Confidence of the input times the confidence of its neighbourhood.

    score = -E(x) * mean of the k largest z . z_i E(x_i),  z = h / ||h||, E = log sum_k exp f_k, z_i of a bank

    The bank is part of the file: `bank` rows of F numbers.

    Args:
        k: How many neighbours; 10 is published.
        bank: Rows to keep; more fitting data than that is sampled. Reading the bank is most of what the head costs.
        seed: Of the sample.

    Reference:
        Park, Jung, Teoh, "Nearest neighbor guidance for out-of-distribution detection", ICCV 2023, arXiv:2309.14888.
    """

    name = "nnguide"

    def __init__(self, *, k: int = 10, bank: int = 2000, seed: int = 0) -> None:
        self.k, self.bank = at_least("k", k, 1), at_least("bank", bank, k)
        self.seed = at_least("seed", seed, 0)

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Keep a bank of directions, each as long as its input was confident."""
        rows = sample(observations, self.bank, seed=self.seed)
        check_bank(self.name, len(rows), self.k)
        confidence = log_sum_exp(rows @ self.layer.weight + self.layer.bias)
        self.rows_ = unit_rows(rows) * confidence[:, None]
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Free energy times guidance."""
        guidance = op.ReduceMean(largest_products(op, unit(op, observed), self.learnt("rows"), self.k), [1], keepdims=0)
        return op.Mul(free_energy(op, self.layer.logits(op, observed)), guidance)
