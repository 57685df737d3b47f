"""A Gaussian fitted to streamed observations, and the distance to it as graph nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.errors import CalibrationError, InputError
from sparsense.graph.build import Builder

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and a whitening matrix [D, D]: W^T W is the inverse of the shrunk covariance."""

    mean: Matrix
    whitening: Matrix

    @classmethod
    def fit(cls, batches: Iterable[NDArray[np.floating]], *, shrinkage: float) -> Gaussian:
        """Estimate mean and covariance in one pass, in float64.

        The covariance is taken of standardised observations and mixed with the identity, (1 - shrinkage) C + shrinkage I,
        so that a constant or collinear feature cannot make it singular.

        Args:
            batches: `[n, D]` each; all observations together at least 2.
            shrinkage: In [0, 1].

        Raises:
            CalibrationError: Fewer than 2 observations.
            InputError: An observation is not finite.
        """
        mean, covariance = _moments(batches)
        spread = np.sqrt(np.diag(covariance))
        spread = np.where(spread > 1e-12 * np.maximum(1, np.abs(mean)), spread, 1.0)
        correlation = (1 - shrinkage) * covariance / np.outer(spread, spread) + shrinkage * np.eye(len(mean))
        values, vectors = np.linalg.eigh(correlation)
        floor = values[-1] * len(mean) * np.finfo(np.float32).eps
        whitening = (vectors / np.sqrt(np.maximum(values, floor))) @ vectors.T
        return cls(mean, whitening / spread)

    def distance(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Squared Mahalanobis distance of observations [N, D]: [N]."""
        centred = op.Sub(observed, self.mean.astype(np.float32))
        return op.ReduceSumSquare(op.MatMul(centred, self.whitening.T.astype(np.float32)), [1], keepdims=0)


def _moments(batches: Iterable[NDArray[np.floating]]) -> tuple[Matrix, Matrix]:
    """Mean and covariance; sums are taken about the first batch's mean, where they cancel least."""
    count, origin, total, square = 0, None, None, None
    for batch in batches:
        rows = np.asarray(batch, np.float64)
        if not np.isfinite(rows).all():
            bad = int((~np.isfinite(rows).all(axis=1)).sum())
            raise InputError(f"fitting a Gaussian: expected finite observations, found {bad} of {len(rows)} rows with NaN or infinity; check the inputs")
        if origin is None:
            origin, total, square = rows.mean(0), np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        rows = rows - origin
        count, total, square = count + len(rows), total + rows.sum(0), square + rows.T @ rows
    if origin is None or total is None or square is None or count < 2:
        raise CalibrationError(f"fitting a Gaussian: expected at least 2 observations, found {count}", needed=2)
    shift = total / count
    return origin + shift, (square - count * np.outer(shift, shift)) / (count - 1)
