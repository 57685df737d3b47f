"""Industrial defects: sets whose training part is free of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparsense.data.arrays import read_npz
from sparsense.data.classes import NORMAL_OR_NOT
from sparsense.data.dataset import Dataset, shuffled
from sparsense.data.published import read_published
from sparsense.data.root import data_file
from sparsense.data.sources import source
from sparsense.errors import InputError

GOOD, DEFECT = 0, 1
_CALIBRATION_SHARE = 0.25


@source("mvtec_screw", "train", "calibration", "test")
def mvtec_screw(split: str, *, data_root: str | None = None) -> Dataset:
    """MVTec AD screws, uint8 `[N, 256, 256, 1]`: train 240 and calibration 80 good, test 41 good, 119 defect.

    Label 0 is good, 1 defect: `classes=[1]` chooses the anomalies of the test part.

    Args:
        split: train and calibration are a fixed division of the official training images.
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.

    Reference:
        P. Bergmann et al., MVTec AD, CVPR 2019. Licence CC BY-NC-SA 4.0: not for commercial use.
    """
    return _defects("mvtec_screw", split, "industrial/mvtec_screw_256.npz", data_root)


@source("magnetic_tile", "train", "calibration", "test")
def magnetic_tile(split: str, *, data_root: str | None = None) -> Dataset:
    """Magnetic tiles, uint8 `[N, 128, 128, 1]`: train 449, calibration 150 good; test 353 good, 392 defect.

    Label 0 is good, 1 defect: `classes=[1]` chooses the anomalies of the test part.

    Args:
        split: train and calibration are a fixed division of the images without defects.
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.

    Reference:
        Y. Huang, C. Qiu, K. Yuan, Surface defect saliency of magnetic tile, The Visual Computer, 2020.
    """
    return _defects("magnetic_tile", split, "industrial/magnetic_tile_128.npz", data_root)


@source("toycar", "calibration", "test", "train", "held_out")
def toycar(split: str, *, data_root: str | None = None, frames: int = 5) -> Dataset:
    """ToyADMOS toy cars: windows of log-mel frames as float32 rows `[N, frames * 128]`; label 1 is anomalous.

    Made for the autoencoders of MLPerf Tiny, which take five frames, 640 numbers.

    Args:
        split: `calibration` (the windows of 40 normal clips) or `test` (those of all other clips); for a network that
            is not trained yet, `train` (of 30 of the 40) and `held_out` (of the 10 that are left).
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.
        frames: Consecutive frames of one window.

    Reference:
        Y. Koizumi et al., ToyADMOS, WASPAA 2019, arXiv:1908.03299.
    """
    path = data_file("industrial/toycar_ad01_logmel.npz", source="toycar", data_root=data_root)
    clips, labels = read_npz(path, ["images", "labels"])
    if not 1 <= frames <= clips.shape[1]:
        raise InputError(f"data source 'toycar': expected 1 to {clips.shape[1]} frames; got {frames}")
    normal = np.flatnonzero(labels == GOOD)
    calibration = normal[shuffled(len(normal), 0)[:40]]
    parts = {"train": calibration[:30], "held_out": calibration[30:], "calibration": calibration}
    chosen = np.isin(np.arange(len(clips)), parts.get(split, calibration)) == (split != "test")
    rows = sliding_windows(clips[chosen][..., 0].astype(np.float32), frames)
    count, steps = int(chosen.sum()), clips.shape[1]
    begins = (np.arange(count)[:, None] * steps + np.arange(steps - frames + 1)).ravel()
    spans = np.stack([begins, begins + frames], axis=1)
    marks = np.repeat(labels[chosen].astype(np.int64), len(rows) // count)
    return Dataset(f"toycar/{split}", rows, marks, spans=spans, class_names=NORMAL_OR_NOT)


def sliding_windows(
    series: np.ndarray[tuple[int, ...], np.dtype[np.float32]], length: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """All windows of `length` consecutive steps: `[N, T, D]` -> `[N * (T - length + 1), length * D]`."""
    windows = np.lib.stride_tricks.sliding_window_view(series, length, axis=1)  # [N, T', D, length]
    return np.ascontiguousarray(windows.swapaxes(2, 3)).reshape(-1, length * series.shape[2])


def _defects(name: str, split: str, file: str, data_root: str | None) -> Dataset:
    if split == "test":
        return replace(
            read_published(f"{name}/test", file, data_root, keys=("test_images", "test_labels")),
            class_names=NORMAL_OR_NOT,
        )
    path = data_file(file, source=name, data_root=data_root)
    (images,) = read_npz(path, ["train_images"])
    order = shuffled(len(images), 0)
    cut = round(len(images) * _CALIBRATION_SHARE)
    chosen = np.sort(order[:cut] if split == "calibration" else order[cut:])
    labels = np.full(len(chosen), GOOD, np.int64)
    return Dataset(f"{name}/{split}", images[chosen], labels, class_names=NORMAL_OR_NOT)
