"""Damage that hits every pixel by itself."""

from __future__ import annotations

import numpy as np

from sparsense.robustness.corruption import Images, corruption


@corruption(0.04, 0.06, 0.08, 0.09, 0.10)
def gaussian_noise(images: Images, strength: float, random: np.random.Generator) -> Images:
    """Normal noise of that standard deviation."""
    return images + random.normal(scale=strength, size=images.shape)


@corruption(500, 250, 100, 75, 50)
def shot_noise(images: Images, strength: float, random: np.random.Generator) -> Images:
    """Photons that are counted: Poisson, with so many at white."""
    return random.poisson(images * strength) / strength


@corruption(0.01, 0.02, 0.03, 0.05, 0.07)
def impulse_noise(images: Images, strength: float, random: np.random.Generator) -> Images:
    """That share of the numbers becomes 0 or 1."""
    hit = random.random(images.shape) < strength
    return np.where(hit, random.integers(0, 2, images.shape), images)
