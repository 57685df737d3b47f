"""Damage of processing: contrast, stretching, coarse pixels, compression."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from sparsense.extras import need
from sparsense.robustness.blur import ndimage, sampled
from sparsense.robustness.corruption import Images, corruption


@corruption(0.75, 0.5, 0.4, 0.3, 0.15)
def contrast(images: Images, strength: float, _: np.random.Generator) -> Images:
    """Distances to the mean of the image shrink to that share."""
    mean = images.mean((1, 2), keepdims=True)
    return np.asarray(mean + strength * (images - mean))


@corruption(0.02, 0.03, 0.04, 0.05, 0.07)
def elastic_transform(images: Images, strength: float, random: np.random.Generator) -> Images:
    """Stretched unevenly: a smooth field of shifts, its size a share of the side."""
    height, width = images.shape[1:3]
    side = max(height, width)
    shifts = ndimage().gaussian_filter(random.normal(size=(2, height, width)), (0, side / 12, side / 12))
    shifts *= strength * side / max(float(shifts.std()), 1e-12)
    rows, columns = np.indices((height, width))
    return sampled(images, rows + shifts[0], columns + shifts[1])


@corruption(0.9, 0.75, 0.6, 0.5, 0.4)
def pixelate(images: Images, strength: float, _: np.random.Generator) -> Images:
    """Made smaller to that share of the side, and large again without smoothing."""
    down, across = (areas(n, max(1, round(strength * n))) for n in images.shape[1:3])
    small = np.einsum("ih,nhwc,jw->nijc", down, images, across)
    return np.asarray(small[:, down.argmax(0)[:, None], across.argmax(0)[None, :]])


def areas(large: int, small: int) -> NDArray[np.float64]:
    """Means of neighbours `[small, large]`: every one of the large ones belongs to one of the small ones.

    Example:
        >>> areas(4, 2).tolist()
        [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    belongs = (np.arange(large) * small // large)[None] == np.arange(small)[:, None]
    return np.asarray(belongs / belongs.sum(1, keepdims=True))


@corruption(60, 40, 25, 15, 8)
def jpeg_compression(images: Images, strength: float, _: np.random.Generator) -> Images:
    """Stored as JPEG of that quality."""
    pillow = need("PIL.Image", doing="damaging images", extra="robust")
    found = []
    for image in np.rint(images * 255).astype(np.uint8):
        file = io.BytesIO()
        pillow.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "JPEG", quality=int(strength))
        found.append(np.asarray(pillow.open(file)).reshape(image.shape))
    return np.stack(found) / 255.0
