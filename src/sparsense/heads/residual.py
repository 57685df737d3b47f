"""How much of the features lies where in-distribution ones do not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.errors import CalibrationError, InputError
from sparsense.graph.build import Builder
from sparsense.heads.checks import at_least
from sparsense.heads.classes import finite
from sparsense.heads.head import Array, register
from sparsense.heads.shaping import FeatureHead


@register
class Residual(FeatureHead):
    """Norm of the penultimate features outside the principal subspace.

    score = || R^T (h - u) ||,  u = -(W^+) b, R = eigenvectors of E[(h - u)(h - u)^T] beyond the first `dim`

    Args:
        dim: Dimension of the principal subspace; None: 1000 of 2048 features or more, 512 of 768 or more, else half.

    Reference:
        Wang et al., "ViM: out-of-distribution with virtual-logit matching", CVPR 2022, arXiv:2203.10807.
    """

    name = "residual"

    def __init__(self, *, dim: int | None = None) -> None:
        self.dim = None if dim is None else at_least("dim", dim, 1)

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Learn the directions in which in-distribution features hardly vary."""
        square, count = np.zeros(()), 0
        for batch in observations:
            square, count = square + self._square(batch), count + len(batch)
        dim = self._dimension(len(self.layer.weight), count)
        self.directions_ = np.linalg.eigh(square)[1][:, : len(square) - dim]
        return self

    def _dimension(self, width: int, count: int) -> int:
        """Of the principal subspace; fewer inputs do not say what it is."""
        dim = self.dim or _usual(width)
        if dim >= width:
            raise InputError(
                f"fitting head {self.name!r}: expected dim below the number of features, {width}; found {dim}"
            )
        if count <= dim:
            raise CalibrationError(
                f"fitting head {self.name!r}: expected at least {dim + 1} inputs, one more than the principal subspace "
                f"has dimensions, found {count}; give more, or a smaller dim",
                needed=dim + 1,
            )
        return dim

    def _square(self, batch: Array) -> Array:
        rows = finite(batch) - self.layer.origin
        return np.asarray(rows.T @ rows)

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The norm outside the subspace."""
        return residual_norm(op, observed, self.layer.origin, self.learnt("directions"))


def residual_norm(op: Builder, features: ir.Value, origin: Array, directions: Array) -> ir.Value:
    """||R^T (h - u)|| of features [N, F], [N]."""
    outside = op.MatMul(op.Sub(features, origin.astype(np.float32)), directions.astype(np.float32))
    return op.Sqrt(op.ReduceSum(op.Mul(outside, outside), [1], keepdims=0))


def _usual(width: int) -> int:
    if width >= 2048:
        return 1000
    return 512 if width >= 768 else max(width // 2, 1)
