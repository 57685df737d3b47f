"""CIFAR-10, lossless and as JPEG."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from sparsense.data.arrays import read_npz
from sparsense.data.dataset import Dataset
from sparsense.data.images import read_image
from sparsense.data.published import OfficialSplits
from sparsense.data.root import data_file
from sparsense.data.sources import source
from sparsense.errors import InputError

_CIFAR10 = OfficialSplits("cifar10", "cifar10/train_18k.npz", "cifar10/test_lossless_1228.npz", calibration_count=500)


@source("cifar10", "train", "calibration", "test", "test_all")
def cifar10(split: str, *, data_root: str | None = None) -> Dataset:
    """CIFAR-10, uint8 `[N, 32, 32, 3]`: train 18000, calibration 500, test 728 (both official test images).

    Pretrained networks have seen all official training images, so the threshold is calibrated on official
    test images; `calibration` and `test` are a fixed, disjoint, stratified division of the 1228 lossless
    ones (`test_all`).

    Args:
        split: See above.
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.

    Reference:
        A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    return _CIFAR10.load(split, data_root)


@source("cifar10_jpeg", "test")
def cifar10_jpeg(split: str, *, data_root: str | None = None) -> Dataset:
    """All 10000 CIFAR-10 test images after JPEG at quality 75: a mild covariate shift, not a clean test set.

    Args:
        split: `test`.
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.
    """
    path = data_file("cifar10/test_10k_jpeg.npz", source="cifar10_jpeg", data_root=data_root)
    stream, offsets, labels = read_npz(path, ["jpeg", "offsets", "labels"])
    if stream.dtype != np.uint8 or offsets.dtype.kind not in "iu" or len(offsets) != len(labels) + 1:
        raise InputError(f"{path}: expected uint8 'jpeg', and one more of the whole numbers 'offsets' than labels")
    files = (stream[a:b].tobytes() for a, b in pairwise(offsets))
    images = np.stack([read_image(file, 32) for file in files])
    return Dataset(f"cifar10_jpeg/{split}", images, labels.astype(np.int64))
