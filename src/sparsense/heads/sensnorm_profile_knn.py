"""The sensitivity profile, compared with its nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import at_least, within
from sparsense.heads.gaussian import Gaussian
from sparsense.heads.head import Array, Head, register
from sparsense.heads.neighbours import check_bank, nearest_distances
from sparsense.heads.sample import sample
from sparsense.heads.sensitivity import check_structure
from sparsense.heads.sensnorm_profile import check_orders, log_norms


@register
class NeighbourProfile(Head):
    """Squared distance of the whitened sensitivity profile to its k-th nearest neighbour.

    v(x)  = ( log || w_l * d log f_yhat / dw_l ||_p )  over layers l and orders p
    score = || u - u_(k) ||^2,  u = C^-1/2 (v - mu), u_(k) the k-th nearest of a bank of in-distribution profiles

    Where one Gaussian is too simple. The bank is part of the file, but a profile is short.

    Args:
        p: Orders of the norms, each >= 1 or inf.
        structure: `weight`, or `channel` for the elasticities of output gates (cheaper).
        layers: Name patterns, operator types, or the number of last layers; default: all weighted layers.
        shrinkage: Share of the identity in the correlation matrix, in [0, 1].
        k: Which neighbour.
        bank: Rows to keep, a random sample of the fitting data.
    """

    name = "sensnorm_profile_knn"
    differentiates = True

    def __init__(
        self,
        *,
        p: float | Sequence[float] = (1.0, 2.0, 5.0),
        structure: str = "weight",
        layers: Sequence[str] | int | None = None,
        shrinkage: float = 1e-2,
        k: int = 10,
        bank: int = 5000,
    ) -> None:
        self.p, self.structure, self.layers = check_orders(p), check_structure(structure), layers
        self.shrinkage = within("shrinkage", shrinkage, 0, 1)
        self.k, self.bank = at_least("k", k, 1), at_least("bank", bank, k)

    def observe(self, network: ForwardGraph) -> ir.Value:
        """Log norms, layer by layer: [N, L * number of orders]."""
        return log_norms(network, self.p, self.structure, self.layers)

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Learn how profiles vary, and keep a bank of whitened ones."""
        rows = sample(observations, self.bank)
        check_bank(self.name, len(rows), self.k)
        gaussian = Gaussian.fit([rows], shrinkage=self.shrinkage)
        self.mean_, self.whitening_ = gaussian.mean, gaussian.whitening
        self.rows_ = (rows - gaussian.mean) @ gaussian.whitening.T
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The k-th smallest of the squared distances."""
        centred = op.Sub(observed, self.learnt("mean").astype(np.float32))
        white = op.MatMul(centred, self.learnt("whitening").T.astype(np.float32))
        return nearest_distances(op, white, self.learnt("rows"), self.k)
