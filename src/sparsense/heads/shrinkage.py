"""How much a covariance is shrunk, chosen by the likelihood of in-distribution data that it was not estimated from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.heads.classes import ClassMoments
from sparsense.heads.gaussian import Matrix, standardised
from sparsense.heads.halves import parts

SHRINKAGES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
FOLDS = 5
FEW = 1e-1
"""For fewer than two rows in each fold, which say nothing about a covariance."""


def likeliest_shrinkage(rows: Matrix, classes: NDArray[Any]) -> float:
    """The shrinkage under which held-out rows are likeliest, summed over folds.

    log p(v) = - 1/2 sum_i log lambda_i - 1/2 sum_i u_i^2 / lambda_i + constants,  lambda = (1 - s) l + s
    l, u: eigenvalues of the correlation matrix of the other folds, and the standardised v - mu in its eigenvectors

    Args:
        rows: In-distribution, [n, D]; columns that never vary do not count.
        classes: What mu belongs to, [n].

    Returns:
        One of `SHRINKAGES`; the same for any order of the rows.

    Example:
        >>> rows = np.random.default_rng(0).standard_normal((40, 30))
        >>> likeliest_shrinkage(rows, np.zeros(40, int)) >= 0.1
        True
    """
    if len(rows) < 2 * FOLDS:
        return FEW
    varying = rows[:, np.ptp(rows, axis=0) > 0]
    part = parts(rows.mean(1), FOLDS)
    found = sum(_log_likelihoods(varying, classes, part == fold) for fold in range(FOLDS))
    return SHRINKAGES[int(np.argmax(found))]


def _log_likelihoods(rows: Matrix, classes: NDArray[Any], out: NDArray[np.bool_]) -> Matrix:
    """Of the rows that are left out, by a Gaussian of the others with each shrinkage."""
    moments = ClassMoments.of([(rows[~out], classes[~out])])
    means = np.tile(moments.mean, (int(classes.max()) + 1, 1))
    means[moments.classes] = moments.means
    spread, correlation = standardised(moments.mean, moments.within, moments.total)
    values, vectors = np.linalg.eigh(correlation)
    squares = np.square((rows[out] - means[classes[out]]) / spread @ vectors).sum(0)
    shares = np.array(SHRINKAGES)[:, None]
    variances = (1 - shares) * np.maximum(values, 0) + shares
    return np.asarray(-(squares / variances + out.sum() * np.log(variances)).sum(1) / 2)
