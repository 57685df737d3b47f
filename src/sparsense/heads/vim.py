"""ViM: the residual as a virtual logit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.heads.head import Array, register
from sparsense.heads.logits import free_energy
from sparsense.heads.residual import Residual, residual_norm
from sparsense.heads.sample import Sample

ROWS = 20_000  # more do not move a mean
LEAST = 1e-6  # of the features: features that never leave the subspace have no residual


@register
class VirtualLogit(Residual):
    """The residual outside the principal subspace against the energy of the logits.

    score = alpha || R^T (h - u) || - log sum_k exp f_k,  alpha = mean of max_k f_k / mean residual

    The published score is the softmax probability of the virtual logit, a monotone function of this one.

    Args:
        dim: Dimension of the principal subspace; None: 1000 of 2048 features or more, 512 of 768 or more, else half.

    Reference:
        Wang et al., "ViM: out-of-distribution with virtual-logit matching", CVPR 2022, arXiv:2203.10807.
    """

    name = "vim"

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:
        """Learn the directions, then the scale of the virtual logit."""
        keeper = Sample(ROWS)
        super().fit(keeper.watch(observations), labels)
        rows = keeper.rows()
        norms = np.linalg.norm((rows - self.layer.origin) @ self.directions_, axis=1)
        logits = (rows @ self.layer.weight + self.layer.bias).max(1)
        self.scale_ = np.asarray(logits.mean() / max(norms.mean(), LEAST * max(1.0, np.abs(rows).max())))
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Virtual logit plus free energy."""
        norm = residual_norm(op, observed, self.layer.origin, self.learnt("directions"))
        return op.Add(op.Mul(norm, float(self.learnt("scale"))), free_energy(op, self.layer.logits(op, observed)))
