"""Accuracy that no attack can take away: randomised smoothing with Gaussian noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.errors import InputError
from sparsense.extras import need

Array = NDArray[np.float64]
Classify = Callable[[Array], NDArray[Any]]
"""Inputs `[N, ...]` in [0, 1] -> classes `[N]`."""
ABSTAIN = -1


@dataclass(frozen=True)
class Certificate:
    """What the smoothed classifier says of one input.

    Args:
        label: The class, or -1: it abstains.
        radius: The class is the same for every input within this L2 distance; 0 where it abstains.
    """

    label: int
    radius: float


@dataclass(frozen=True)
class Smoothing:
    """The noise, the samples and the risk of a certificate.

    Args:
        sigma: Standard deviation of the noise, in the unit of inputs in [0, 1].
        guesses: Noisy copies that choose the class.
        samples: Further noisy copies that count how often it comes.
        alpha: The chance that a certificate is wrong.
        batch_size: Copies at a time.
    """

    sigma: float
    guesses: int = 100
    samples: int = 1000
    alpha: float = 0.001
    batch_size: int = 256

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and self.guesses >= 1 and self.samples >= 1 and 0 < self.alpha < 1):
            raise InputError(f"smoothing: expected sigma > 0, counts >= 1, 0 < alpha < 1; got {self}")


def certify(
    classify: Classify, image: NDArray[Any], smoothing: Smoothing, *, classes: int, random: np.random.Generator
) -> Certificate:
    """The class of the smoothed classifier around one input, and the radius within which nothing changes it.

    R = sigma * Phi^-1(p), p the lower Clopper-Pearson bound, at level 1 - alpha, of the share of copies in the class.

    Args:
        classify: The classifier.
        image: One input, in [0, 1].
        smoothing: How.
        classes: How many there are.
        random: Draws the noise.

    Reference:
        J. Cohen, E. Rosenfeld, J. Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019,
        arXiv:1902.02918, algorithm CERTIFY.
    """
    label = int(noisy_counts(classify, image, smoothing.guesses, smoothing, classes=classes, random=random).argmax())
    counts = noisy_counts(classify, image, smoothing.samples, smoothing, classes=classes, random=random)
    return certificate(label, int(counts[label]), smoothing)


def certificate(label: int, count: int, smoothing: Smoothing) -> Certificate:
    """What follows from `count` of the samples in the class.

    Example:
        >>> round(certificate(3, 1000, Smoothing(0.5)).radius, 4), certificate(3, 520, Smoothing(0.5)).label
        (1.2316, -1)
    """
    share = lower_bound(count, smoothing.samples, smoothing.alpha)
    if share <= 0.5:
        return Certificate(ABSTAIN, 0.0)
    return Certificate(label, smoothing.sigma * NormalDist().inv_cdf(share))


def lower_bound(successes: int, count: int, alpha: float) -> float:
    """Clopper and Pearson's one-sided lower bound of a share: below the truth with probability 1 - alpha or more.

    Reference:
        C. Clopper, E. Pearson, Biometrika 26, 1934.

    Example:
        >>> lower_bound(10, 10, 0.05) == 0.05 ** (1 / 10)
        True
    """
    if not 0 <= successes <= count or count < 1:
        raise InputError(f"expected 0 <= successes <= count and count >= 1; got {successes} of {count}")
    if successes == 0:
        return 0.0
    if successes == count:
        return float(alpha ** (1 / count))
    beta = need("scipy.stats", doing="certifying accuracy", extra="robust").beta
    return float(beta.ppf(alpha, successes, count - successes + 1))


def noisy_counts(
    classify: Classify,
    image: NDArray[Any],
    count: int,
    smoothing: Smoothing,
    *,
    classes: int,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """How often each class comes among `count` noisy copies, `[classes]`; copies are not cut to [0, 1]."""
    found = np.zeros(classes, np.int64)
    for start in range(0, count, smoothing.batch_size):
        size = min(smoothing.batch_size, count - start)
        copies = image[None] + smoothing.sigma * random.normal(size=(size, *image.shape))
        found += np.bincount(classify(copies), minlength=classes)
    return found


def certified_accuracy(found: Sequence[Certificate], labels: NDArray[Any], radii: Sequence[float]) -> list[float]:
    """The share of inputs whose class is right and certified to each radius.

    Args:
        found: One per input.
        labels: The true classes.
        radii: L2 distances, 0 or more.

    Returns:
        A share per radius, not rising with it.
    """
    if len(found) != len(labels) or not found:
        raise InputError(f"expected a certificate per label, at least one; got {len(found)} and {len(labels)}")
    right = np.array([one.radius if one.label == label else -1.0 for one, label in zip(found, labels, strict=True)])
    return [float((right >= radius).mean()) for radius in radii]
