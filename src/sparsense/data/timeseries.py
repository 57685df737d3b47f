"""Series cut into windows, rows of numbers whose label says whether an anomaly touches them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.data.arrays import npz_keys, read_npz
from sparsense.data.classes import NORMAL_OR_NOT
from sparsense.data.dataset import Dataset
from sparsense.data.root import data_file
from sparsense.data.sources import source
from sparsense.errors import InputError, UnknownNameError

_NASA_CALIBRATION_SHARE = 0.25
_NAB_SHARES = {"train": (0.0, 0.4), "calibration": (0.4, 0.6), "test": (0.6, 1.0)}


@source("nasa", "train", "calibration", "test")
def nasa(
    split: str,
    *,
    channel: str,
    mission: str = "smap",
    data_root: str | None = None,
    length: int = 64,
    step: int = 8,
) -> Dataset:
    """One telemetry channel of the SMAP or MSL missions, in windows, float32 `[N, length]`; 1 is anomalous.

    Args:
        split: train is the first three quarters of the channel's training series, calibration the last.
        channel: Such as `A-1` (smap) or `C-1` (msl).
        mission: `smap` or `msl`.
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.
        length: Time steps of a window.
        step: Time steps between the beginnings of two windows.

    Reference:
        K. Hundman et al., Detecting Spacecraft Anomalies Using LSTMs, KDD 2018, arXiv:1802.04431.
    """
    if mission not in ("smap", "msl"):
        raise UnknownNameError("mission of data source 'nasa'", mission, ("smap", "msl"))
    path = data_file(f"timeseries/nasa_{mission}.npz", source="nasa", data_root=data_root)
    _check_series("channel of data source 'nasa'", channel, {key.partition("__")[0] for key in npz_keys(path)})
    name = f"nasa/{mission}/{channel}/{split}"
    if split == "test":
        values, labels = read_npz(path, [f"{channel}__test", f"{channel}__label"])
        return windows(name, values, labels, length, step)
    (values,) = read_npz(path, [f"{channel}__train"])
    cut = round(len(values) * (1 - _NASA_CALIBRATION_SHARE))
    part = values[:cut] if split == "train" else values[cut:]
    return windows(name, part, np.zeros(len(part), np.int64), length, step)


@source("nab", *_NAB_SHARES)
def nab(split: str, *, series: str, data_root: str | None = None, length: int = 64, step: int = 8) -> Dataset:
    """One series of the Numenta Anomaly Benchmark, in windows, float32 `[N, length]`; 1 is anomalous.

    Args:
        split: In time: the first 40 % is train, the next 20 % calibration, the rest test. The first two may
            hold anomalies: `classes=[0]` leaves them out.
        series: Such as `realKnownCause__nyc_taxi`: folder and file, joined by two underscores.
        data_root: Folder of the published sets; None takes SPARSENSE_DATA.
        length: Time steps of a window.
        step: Time steps between the beginnings of two windows.

    Reference:
        A. Lavin, S. Ahmad, Evaluating Real-Time Anomaly Detection Algorithms, ICMLA 2015, arXiv:1510.03336.
    """
    path = data_file("timeseries/nab.npz", source="nab", data_root=data_root)
    _check_series("series of data source 'nab'", series, {key.rpartition("__")[0] for key in npz_keys(path)})
    values, labels = read_npz(path, [f"{series}__value", f"{series}__label"])
    first, last = (round(share * len(values)) for share in _NAB_SHARES[split])
    return windows(f"nab/{series}/{split}", values[first:last], labels[first:last], length, step)


def windows(name: str, values: NDArray[Any], labels: NDArray[Any], length: int, step: int) -> Dataset:
    """Windows of a series `[T]` or `[T, D]` as rows; anomalous (1) if the label of one of its steps is not 0."""
    if not len(values):
        raise InputError(
            f"cutting {name} into windows: expected at least {length} time steps, found none; give the split a larger "
            "share, or the series more time steps"
        )
    if step < 1 or not 1 <= length <= len(values):
        raise InputError(
            f"{name}: expected a step of at least 1 and a length of 1 to {len(values)} time steps; "
            f"got step {step}, length {length}"
        )
    view = np.lib.stride_tricks.sliding_window_view
    touched = view(labels != 0, length)[::step].any(axis=1)
    cut = view(values, length, axis=0)[::step]  # [N, length] or [N, D, length]
    rows = cut if cut.ndim == 2 else cut.swapaxes(1, 2).reshape(len(cut), -1)
    begins = np.arange(0, len(values) - length + 1, step)
    spans = np.stack([begins, begins + length], axis=1)
    return Dataset(name, rows.astype(np.float32), np.asarray(touched, np.int64), spans=spans, class_names=NORMAL_OR_NOT)


def _check_series(kind: str, name: str, known: set[str]) -> None:
    if name not in known:
        raise UnknownNameError(kind, name, known)
