"""How good a classifier's answers and their probabilities are: accuracy, calibration error, Brier score, NLL."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsense.benchmark.metrics import Array
from sparsense.errors import InputError


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """The share of inputs whose largest logit is that of the label.

    Args:
        logits: `[N, K]`.
        labels: `[N]`, 0 .. K - 1.

    Returns:
        0 to 1, higher is better.
    """
    values, truth = _checked(logits, labels)
    return float((values.argmax(axis=1) == truth).mean())


def expected_calibration_error(logits: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> float:
    """ECE: how far confidence is from accuracy, over bins of equal width of the largest probability.

    ECE = sum over bins of (share of inputs in the bin) x |accuracy - mean confidence|.

    Args:
        logits: `[N, K]`.
        labels: `[N]`.
        bins: Number of bins; the value depends on it, so compare only equal numbers.

    Returns:
        0 to 1, lower is better.

    Reference:
        C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv:1706.04599.
    """
    values, truth = _checked(logits, labels)
    confidence = np.exp(log_softmax(values).max(axis=1))
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # bins (a, b], as in the paper
    gap = (values.argmax(axis=1) == truth) - confidence
    return float(np.abs(np.bincount(bin_of, weights=gap, minlength=bins)).sum() / len(truth))


def brier_score(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean squared distance of the probabilities from the truth: mean of sum_k (p_k - y_k)^2.

    Returns:
        0 to 2, lower is better.

    Reference:
        G. Brier, Monthly Weather Review 78, 1950.
    """
    values, truth = _checked(logits, labels)
    probabilities = np.exp(log_softmax(values))
    probabilities[np.arange(len(truth)), truth] -= 1
    return float((probabilities**2).sum(axis=1).mean())


def negative_log_likelihood(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean of -log p(label), in nats; lower is better."""
    values, truth = _checked(logits, labels)
    return float(-log_softmax(values)[np.arange(len(truth)), truth].mean())


def log_softmax(logits: Array) -> Array:
    """Logarithm of the probabilities `[N, K]`, without overflow."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[Array, NDArray[Any]]:
    values, truth = np.asarray(logits, np.float64), np.asarray(labels)
    if values.ndim != 2 or truth.shape != values.shape[:1] or not values.size:
        raise InputError(f"expected logits [N, K] and labels [N]; found {list(values.shape)} and {list(truth.shape)}")
    if not np.isfinite(values).all():
        raise InputError(f"expected finite logits; found {values[~np.isfinite(values)][0]}")
    if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= values.shape[1]:
        raise InputError(
            f"expected whole numbers 0 .. {values.shape[1] - 1} as labels; found {truth.dtype} "
            f"from {truth.min()} to {truth.max()}"
        )
    return values, truth
