"""Damage of the optics: every pixel becomes a mean of others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.extras import need
from sparsense.robustness.corruption import Images, corruption


def ndimage() -> Any:
    """The filters of scipy."""
    return need("scipy.ndimage", doing="damaging images", extra="robust")


def filtered(images: Images, kernel: NDArray[np.float64]) -> Images:
    """Every channel of every image convolved with one kernel of sum 1; borders are mirrored."""
    found: Images = ndimage().convolve(images, (kernel / kernel.sum())[None, :, :, None], mode="mirror")
    return found


def disk(radius: float) -> NDArray[np.float64]:
    """A round aperture with a soft edge."""
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(np.clip(radius + 0.5 - np.hypot(x, y), 0.0, 1.0))


def line(length: int, angle: float) -> NDArray[np.float64]:
    """A path of that length through the centre."""
    kernel = np.zeros((length | 1, length | 1))
    along = np.linspace(-(length - 1) / 2, (length - 1) / 2, 4 * length)
    middle = length // 2
    rows, columns = (np.rint(middle + along * f(angle)).astype(int) for f in (np.sin, np.cos))
    np.add.at(kernel, (rows.clip(0, len(kernel) - 1), columns.clip(0, len(kernel) - 1)), 1.0)
    return kernel


@corruption(0.015, 0.022, 0.03, 0.04, 0.055)
def defocus_blur(images: Images, strength: float, _: np.random.Generator) -> Images:
    """Out of focus; the radius as a share of the side."""
    return filtered(images, disk(max(strength * max(images.shape[1:3]), 0.6)))


@corruption(0.010, 0.014, 0.018, 0.022, 0.028)
def glass_blur(images: Images, strength: float, random: np.random.Generator) -> Images:
    """Behind frosted glass: pixels change places with near ones, between two blurs."""
    reach = strength * max(images.shape[1:3])
    soft = ndimage().gaussian_filter(images, (0, reach / 2, reach / 2, 0))
    rows, columns = np.indices(images.shape[1:3]) + random.uniform(-2 * reach, 2 * reach, (2, *images.shape[1:3]))
    found: Images = ndimage().gaussian_filter(sampled(soft, rows, columns), (0, reach / 2, reach / 2, 0))
    return found


@corruption(0.08, 0.12, 0.16, 0.20, 0.26)
def motion_blur(images: Images, strength: float, random: np.random.Generator) -> Images:
    """The camera moved along a line; its length as a share of the side, its angle drawn."""
    length = max(2, round(strength * max(images.shape[1:3])))
    return filtered(images, line(length, random.uniform(-np.pi / 4, np.pi / 4)))


@corruption(1.06, 1.11, 1.16, 1.21, 1.26)
def zoom_blur(images: Images, strength: float, _: np.random.Generator) -> Images:
    """The camera came nearer: the mean over zooms up to that factor."""
    factors = np.linspace(1.0, strength, 8)
    return np.asarray(np.mean([zoomed(images, factor) for factor in factors], axis=0))


def zoomed(images: Images, factor: float) -> Images:
    """Enlarged about the centre, the size kept."""
    height, width = images.shape[1:3]
    rows, columns = (((n - 1) / 2 + (np.arange(n) - (n - 1) / 2) / factor) for n in (height, width))
    return sampled(images, *np.meshgrid(rows, columns, indexing="ij"))


def sampled(images: Images, rows: NDArray[Any], columns: NDArray[Any]) -> Images:
    """Pixels at places `[H, W]` between the pixels, bilinear; outside is mirrored."""
    places = np.stack([rows, columns])
    flat = np.moveaxis(images, -1, 1).reshape(-1, *images.shape[1:3])
    found = np.stack([ndimage().map_coordinates(image, places, order=1, mode="mirror") for image in flat])
    return np.moveaxis(found.reshape(len(images), images.shape[-1], *images.shape[1:3]), 1, -1)
