import numpy as np
import pytest
from scipy import ndimage
from sklearn.datasets import load_digits

from sparsense.data import SOURCES
from sparsense.data.digits import upsample


@pytest.mark.parametrize(("split", "count"), [("train", 1000), ("calibration", 400), ("test", 397)])
def test_format_and_class_shares(split, count):
    data = SOURCES["digits"](split)
    assert data.inputs.shape == (count, 16, 16, 1)
    assert data.inputs.dtype == np.uint8
    expected = np.bincount(load_digits().target) * count / 1797
    assert np.abs(np.bincount(data.labels) - expected).max() < 1


def test_splits_are_disjoint_and_complete():
    images = [SOURCES["digits"](split).inputs for split in ("train", "calibration", "test")]
    together = sorted(image.tobytes() for split in images for image in split)
    assert together == sorted(image.tobytes() for image in upsample(load_digits().images))
    assert len(set(together)) == 1797  # no duplicates, so nothing is in two splits


def test_golden_hashes():
    hashes = {split: SOURCES["digits"](split).sha256()[:16] for split in ("train", "calibration", "test")}
    assert hashes == {
        "train": "b5e4cf0334f4164a",
        "calibration": "784d70707da58330",
        "test": "868d5def57ce12aa",
    }


def test_upsampling_is_bilinear_interpolation():
    images = load_digits().images[:20]
    # Half-pixel-centred bilinear enlargement: grid_mode with the border repeated.
    expected = ndimage.zoom(images, (1, 2, 2), order=1, mode="nearest", grid_mode=True) * 255 / 16
    assert np.abs(upsample(images)[..., 0] - expected).max() <= 0.5 + 1e-9
    assert upsample(np.full((1, 3, 3), 16)).min() == 255
