"""Grey patches of two photographs: images with texture everywhere and no figure."""

from __future__ import annotations

import numpy as np

from sparsense.data.dataset import Dataset
from sparsense.data.images import resize
from sparsense.data.sources import source
from sparsense.errors import InputError
from sparsense.extras import need


@source("photo_patches", "test")
def photo_patches(split: str, *, count: int = 400, seed: int = 0) -> Dataset:
    """Square patches of scikit-learn's two sample photographs, grey, uint8 `[count, 16, 16, 1]`.

    The sides are 16 to 200 pixels, uniform in their logarithm, reduced to 16. Labels: 0 temple, 1 flower.

    Args:
        split: `test`.
        count: How many; the photographs take turns.
        seed: Of sides and places.

    Raises:
        MissingExtraError: scikit-learn or Pillow is not installed.
    """
    if count < 1:
        raise InputError(f"data source 'photo_patches': expected a count of at least 1; got {count}")
    datasets = need("sklearn.datasets", doing="the data source 'photo_patches'", extra="data")
    photographs = [resize(photo[None], None, 1)[0] for photo in datasets.load_sample_images().images]
    random = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % len(photographs)
    patches = [resize(_square(photographs[label], random)[None], 16, 1) for label in labels]
    return Dataset(f"photo_patches/{split}", np.concatenate(patches), labels)


def _square(
    photo: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], random: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    side = round(float(np.exp(random.uniform(np.log(16), np.log(200)))))
    top, left = (int(random.integers(0, extent - side + 1)) for extent in photo.shape[:2])
    return photo[top : top + side, left : left + side]
