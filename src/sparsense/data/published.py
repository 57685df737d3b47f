"""What the published image sets share: an .npz of `images` and `labels` below the data root."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsense.data.array_files import as_inputs, as_labels
from sparsense.data.arrays import read_npz
from sparsense.data.dataset import Dataset, stratified_order
from sparsense.data.root import data_file


def read_published(
    name: str, file: str, data_root: str | None, *, keys: tuple[str, str] = ("images", "labels")
) -> Dataset:
    """Read `file` below the data root; `name` is the source and split, such as `svhn/test`."""
    path = data_file(file, source=name.partition("/")[0], data_root=data_root)
    images, labels = read_npz(path, keys)
    return Dataset(name, as_inputs(images, str(path)), as_labels(labels, str(path)))


@dataclass(frozen=True)
class OfficialSplits:
    """A set with official training and test files, of which pretrained networks know all training images.

    So a threshold must not be calibrated on training images: the network is surer of them, their scores are
    lower, and the false-alarm rate on new images would exceed the asked one. Therefore the official *test*
    images are divided, once and for all, into `calibration` and `test`; `test_all` is both together.
    """

    name: str
    train: str
    test: str
    calibration_count: int

    def load(self, split: str, data_root: str | None) -> Dataset:
        """One of `train`, `calibration`, `test`, `test_all`."""
        if split == "train":
            return read_published(f"{self.name}/train", self.train, data_root)
        images = read_published(f"{self.name}/{split}", self.test, data_root)
        if split == "test_all":
            return images
        assert images.labels is not None
        order = stratified_order(images.labels, seed=0)
        part = order[: self.calibration_count] if split == "calibration" else order[self.calibration_count :]
        return images.subset(np.sort(part))
