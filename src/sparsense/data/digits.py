"""The handwritten digits that scikit-learn brings along, as 16x16 images: data that needs no download."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.data.dataset import Dataset, stratified_order
from sparsense.data.sources import source
from sparsense.extras import need

SPLITS = {"train": slice(0, 1000), "calibration": slice(1000, 1400), "test": slice(1400, 1797)}
_SPLIT_SEED = 0  # fixed: the splits are part of the data, not of a run


@source("digits", *SPLITS)
def digits(split: str) -> Dataset:
    """1797 handwritten digits, uint8 `[N, 16, 16, 1]`: train 1000, calibration 400, test 397.

    The splits are disjoint and stratified by class; the numbers are the same on every platform.

    Args:
        split: See above.

    Raises:
        MissingExtraError: scikit-learn is not installed.

    Reference:
        E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998.
    """
    datasets = need("sklearn.datasets", doing="the data source 'digits'", extra="data")
    bunch = datasets.load_digits()
    labels = np.asarray(bunch.target)
    chosen = stratified_order(labels, _SPLIT_SEED)[SPLITS[split]]
    return Dataset(f"digits/{split}", upsample(bunch.images[chosen]), labels[chosen])


def upsample(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Bilinear enlargement by two of whole numbers 0..16, and 16 -> 255, in exact integer arithmetic.

    Args:
        images: `[N, H, W]`, whole numbers 0..16.

    Returns:
        uint8 `[N, 2H, 2W, 1]`.
    """
    fine = _double(_double(images.astype(np.int64), axis=1), axis=2)  # 0..256
    return ((fine * 255 + 128) // 256).astype(np.uint8)[..., None]


def _double(images: NDArray[np.int64], *, axis: int) -> NDArray[np.int64]:
    """Each value v becomes (3v + its left neighbour) and (3v + its right one); the border repeats itself."""
    size = images.shape[axis]
    left = images.take(np.maximum(np.arange(size) - 1, 0), axis=axis)
    right = images.take(np.minimum(np.arange(size) + 1, size - 1), axis=axis)
    pair = np.stack([3 * images + left, 3 * images + right], axis=axis + 1)
    return pair.reshape(*images.shape[:axis], 2 * size, *images.shape[axis + 1 :])
