"""Digits made anomalous: inverted, or drowned in noise."""

from __future__ import annotations

import numpy as np

from sparsense.data.dataset import Dataset
from sparsense.data.digits import digits
from sparsense.data.sources import source
from sparsense.errors import InputError


@source("inverted_digits", "test")
def inverted_digits(split: str) -> Dataset:
    """The test digits in black on white, uint8 `[397, 16, 16, 1]`.

    Args:
        split: `test`.
    """
    images = digits(split)
    return Dataset(f"inverted_digits/{split}", 255 - images.inputs, images.labels)


@source("noisy_digits", "test")
def noisy_digits(split: str, *, strength: float = 0.5, seed: int = 0) -> Dataset:
    """The test digits under strong Gaussian noise, uint8 `[397, 16, 16, 1]`.

    y = clip(round(x + 255 * strength * n), 0, 255), n standard normal.

    Args:
        split: `test`.
        strength: Standard deviation of the noise as a share of the range of grey values; positive.
        seed: Of the noise (and of a draw by `limit`).
    """
    if not 0 < strength < float("inf"):
        raise InputError(f"data source 'noisy_digits': expected a positive strength; got {strength}")
    images = digits(split)
    noise = np.random.default_rng(seed).standard_normal(images.inputs.shape)
    noisy = np.clip(np.rint(images.inputs + 255 * strength * noise), 0, 255).astype(np.uint8)
    return Dataset(f"noisy_digits/{split}", noisy, images.labels)
