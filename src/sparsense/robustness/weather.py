"""Damage of the weather; its textures are drawn, none is taken from a photograph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsense.robustness.blur import filtered, line, ndimage
from sparsense.robustness.corruption import Images, corruption

TILT = np.pi / 3


@corruption(0.06, 0.10, 0.14, 0.18, 0.24)
def snow(images: Images, strength: float, random: np.random.Generator) -> Images:
    """Flakes that fall at an angle, over a picture that has lost colour; the share of the area that they start from."""
    flakes = (random.random((*images.shape[:3], 1)) < strength).astype(np.float64)
    fallen = filtered(flakes, line(max(3, max(images.shape[1:3]) // 8), TILT))
    grey = images.mean(-1, keepdims=True)
    pale = (1 - strength) * images + strength * np.maximum(images, 1.5 * grey + 0.2)
    return np.asarray(pale + 1.5 * fallen)


@corruption(0.25, 0.35, 0.45, 0.55, 0.65)
def frost(images: Images, strength: float, random: np.random.Generator) -> Images:
    """Crystals over the picture: ridges of smooth noise, white where they cross; the weight of the ice."""
    ridges = 1 - np.abs(2 * clouds(images, random) - 1) ** 0.5
    return (1 - strength) * images + strength * np.clip(0.3 + ridges[..., None], 0, 1)


@corruption(0.20, 0.35, 0.50, 0.65, 0.80)
def fog(images: Images, strength: float, random: np.random.Generator) -> Images:
    """White clouds of uneven thickness; the weight of the fog."""
    thick = strength * (0.6 + 0.4 * clouds(images, random))[..., None]
    return (1 - thick) * images + thick


@corruption(0.10, 0.18, 0.26, 0.34, 0.42)
def brightness(images: Images, strength: float, _: np.random.Generator) -> Images:
    """So much is added everywhere."""
    return images + strength


def clouds(images: Images, random: np.random.Generator) -> NDArray[np.float64]:
    """Noise of many scales `[N, H, W]` between 0 and 1: each octave half as fine and twice as strong."""
    shape = images.shape[:3]
    total = np.zeros(shape)
    sigma, weight = 1.0, 1.0
    while sigma <= max(shape[1:]) / 4:
        octave = ndimage().gaussian_filter(random.normal(size=shape), (0, sigma, sigma), mode="wrap")
        total += weight * octave / max(float(octave.std()), 1e-12)
        sigma, weight = 2 * sigma, 2 * weight
    low, high = total.min((1, 2), keepdims=True), total.max((1, 2), keepdims=True)
    return np.asarray((total - low) / np.maximum(high - low, 1e-12))
