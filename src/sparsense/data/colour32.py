"""The colour 32x32 sets that are usually held against CIFAR-10."""

from __future__ import annotations

from sparsense.data.arrays import read_npz
from sparsense.data.dataset import Dataset
from sparsense.data.published import read_published
from sparsense.data.root import data_file
from sparsense.data.sources import source


@source("svhn", "test")
def svhn(split: str, *, data_root: str | None = None) -> Dataset:
    """SVHN, house numbers in street photographs, uint8 `[5000, 32, 32, 3]`.

    Args:
        split: `test`.
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.

    Reference:
        Y. Netzer et al., Reading Digits in Natural Images, NIPS workshop, 2011.
    """
    return read_published(f"svhn/{split}", "ood/svhn_test_5k.npz", data_root)


@source("textures", "test")
def textures(split: str, *, data_root: str | None = None) -> Dataset:
    """Describable Textures, 10 of 47 categories, uint8 `[1200, 32, 32, 3]`.

    Args:
        split: `test`.
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.

    Reference:
        M. Cimpoi et al., Describing Textures in the Wild, CVPR 2014, arXiv:1311.3618.
    """
    return read_published(f"textures/{split}", "ood/textures_dtd32_1200.npz", data_root)


@source("tiny_imagenet", "test", "auxiliary")
def tiny_imagenet(split: str, *, data_root: str | None = None, overlapping: bool = False) -> Dataset:
    """Tiny-ImageNet at 32x32: test (validation images), and 6000 auxiliary training images for exposure.

    After training on `auxiliary` judge on other sets: both splits show the same classes.

    Args:
        split: `test` or `auxiliary`; the latter is free of classes that CIFAR-10 has too.
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.
        overlapping: Keep test classes that are also classes of CIFAR-10. They are no anomalies there.
    """
    if split == "auxiliary":
        return read_published("tiny_imagenet/auxiliary", "ood/tiny_imagenet_train32_aux_6k.npz", data_root)
    file = "ood/tiny_imagenet_val32_5k.npz"
    images = read_published("tiny_imagenet/test", file, data_root)
    if overlapping:
        return images
    path = data_file(file, source="tiny_imagenet", data_root=data_root)
    (overlaps,) = read_npz(path, ["class_overlaps_cifar10"])
    return images.subset(~overlaps.astype(bool)[images.labels])
