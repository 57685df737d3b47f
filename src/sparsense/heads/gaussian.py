"""Gaussians fitted to streamed observations, and the distance to them as graph nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.errors import CalibrationError
from sparsense.graph.build import Builder
from sparsense.heads.classes import finite

Matrix = NDArray[np.float64]
FAINT = 1e-5  # of a feature's root mean square: sums in float32 are no more exact


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and a whitening matrix [D, D]: W^T W is the inverse of the shrunk covariance."""

    mean: Matrix
    whitening: Matrix

    @classmethod
    def fit(cls, batches: Iterable[NDArray[np.floating]], *, shrinkage: float) -> Gaussian:
        """Estimate mean and covariance in one pass, in float64.

        Args:
            batches: `[n, D]` each; all observations together at least 2.
            shrinkage: In [0, 1]; see `whitening`.

        Raises:
            CalibrationError: Fewer than 2 observations.
            InputError: An observation is not finite.
        """
        mean, covariance = moments(batches)
        return cls(mean, whitening(mean, covariance, shrinkage=shrinkage))

    def distance(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Squared Mahalanobis distance of observations [N, D]: [N]."""
        centred = op.Sub(observed, self.mean.astype(np.float32))
        return op.ReduceSumSquare(op.MatMul(centred, self.whitening.T.astype(np.float32)), [1], keepdims=0)


def whitening(mean: Matrix, covariance: Matrix, *, shrinkage: float, total: Matrix | None = None) -> Matrix:
    """W [D, D] with W^T W = the inverse of the shrunk covariance.

    The covariance is taken of standardised observations and mixed with the identity, (1 - shrinkage) C + shrinkage I,
    so that a constant or collinear feature cannot make it singular.

    Args:
        mean: Of all observations, [D].
        covariance: [D, D].
        shrinkage: In [0, 1].
        total: Covariance about that mean, where the other one is about class means, [D, D].
    """
    spread, correlation = standardised(mean, covariance, total)
    values, vectors = np.linalg.eigh((1 - shrinkage) * correlation + shrinkage * np.eye(len(mean)))
    floor = max(float(values[-1]), 1.0) * len(mean) * np.finfo(np.float32).eps  # features that never vary give 0
    return np.asarray((vectors / np.sqrt(np.maximum(values, floor))) @ vectors.T / spread)


def standardised(mean: Matrix, covariance: Matrix, total: Matrix | None = None) -> tuple[Matrix, Matrix]:
    """Standard deviations [D], 1 where a feature never varies, and the covariance of what was divided by them.

    Arguments as for `whitening`. Observations have float32's digits: what varies in the last of them only is constant,
    such as the gate of a predicted class whose logit has no bias, 1 for all inputs of the class.
    """
    spread = np.sqrt(np.maximum(np.diag(covariance), 0))
    size = np.sqrt(np.square(mean) + np.maximum(np.diag(covariance if total is None else total), 0))
    spread = np.where(spread > FAINT * size, spread, 1.0)
    return spread, covariance / np.outer(spread, spread)


def moments(batches: Iterable[NDArray[Any]]) -> tuple[Matrix, Matrix]:
    """Mean [D] and covariance [D, D]; sums are taken about the first batch's mean, where they cancel least."""
    count = 0
    origin: Any = None
    total: Any = 0.0
    square: Any = 0.0
    for batch in batches:
        rows = finite(batch)
        origin = rows.mean(0) if origin is None else origin
        rows = rows - origin
        count, total, square = count + len(rows), total + rows.sum(0), square + rows.T @ rows
    if count < 2:
        raise CalibrationError(f"fitting a Gaussian: expected at least 2 observations, found {count}", needed=2)
    shift = total / count
    return origin + shift, (square - count * np.outer(shift, shift)) / (count - 1)
