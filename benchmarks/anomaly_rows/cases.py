"""Cases: normal samples to train on, and test samples of which some are anomalous."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.data import SOURCES, Dataset
from sparsense.data.arrays import npz_keys
from sparsense.data.images import resize

SPLITS = ("train", "test")
IMAGES = {"digits": "digits", "mnist": "mnist", "fashion": "fashion_mnist", "cifar10": "cifar10"}
LENGTH, STEP = 32, 8  # of windows of series
WINDOWS, EVERY = 196, 28  # of a clip of sound, and which of them are scored by default: they overlap
FRAMES = 128  # of a picture of sound: as many as it has mel bands
PICTURES, LEARNT, SCORED = 73, 12, 24  # of a clip, and which of them are learnt and scored
BRIGHTNESS = 160  # of a screw's image in the mean: few pixels reach 255
DEVELOPMENT = ("cardio", "pendigits", "satellite", "thyroid")
"""Tables on which code, beta and steps were chosen by what was found there; measured when they are asked for."""
SERIES = {
    "nasa/smap": ("A-1", "D-1", "E-1", "P-1", "T-1"),
    "nasa/msl": ("C-1", "D-14", "F-7", "M-6", "T-4"),
    "nab": (
        "realKnownCause__nyc_taxi", "realKnownCause__machine_temperature_system_failure",
        "realAWSCloudwatch__ec2_cpu_utilization_825cc2", "artificialWithAnomaly__art_daily_jumpsup",
        "realTraffic__speed_7578",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much of the data is used.

    Args:
        classes: Of the image sets.
        train: At most so many training samples; None: all.
        test: At most so many test samples of either kind; None: all.
        side: Images of defects are brought to it.
        everything: All series, not the first ones.
    """

    classes: tuple[int, ...]
    train: int | None
    test: int | None
    side: int
    everything: bool = False


@dataclass(frozen=True)
class Case:
    """One problem.

    Args:
        row: Of the table.
        name: Of the case within it.
        train: Normal samples.
        test: With label 1 where a sample is anomalous.
        groups: Test samples that are judged together by their mean score, such as the windows of a clip.
    """

    row: str
    name: str
    train: Dataset
    test: Dataset
    groups: NDArray[np.int64] | None = None


def cases(row: str, size: Size, root: str | None) -> Iterator[Case]:
    """The cases of one row of the table, at the size that is asked for."""
    made = _images(row, size, root) if row in IMAGES else ROWS[row](size, root)
    for case in made:
        train = case.train if size.train is None else case.train.subset(size.train, seed=0)
        test = case.test if size.test is None or case.groups is not None else _at_most(case.test, size.test)
        yield replace(case, train=train, test=test)


def _at_most(test: Dataset, count: int) -> Dataset:
    """At most so many normal and so many anomalous samples."""
    assert test.labels is not None
    parts = [test.subset(test.labels == mark).subset(count, seed=0) for mark in (0, 1)]
    return joined(test.name, *parts)


def joined(name: str, normal: Dataset, anomalous: Dataset) -> Dataset:
    """Test samples with their marks."""
    marks = np.repeat([0, 1], [len(normal), len(anomalous)])
    return Dataset(name, np.concatenate([normal.inputs, anomalous.inputs]), marks)


def _images(row: str, size: Size, root: str | None) -> Iterator[Case]:
    """One class against the others."""
    options: dict[str, Any] = {} if row == "digits" else {"data_root": root}
    if row != "cifar10":  # whose images are shrunk for the networks that take smaller ones
        options["size"] = 28
    whole = {"train": SOURCES[IMAGES[row]]("train", **options)}
    tests = "test" if row == "digits" else "test_all"
    whole["test"] = SOURCES[IMAGES[row]](tests, **options)
    for label in size.classes:
        test = whole["test"]
        assert test.labels is not None
        marked = joined(f"{row}/{label}", *(test.subset((test.labels == label) == same) for same in (True, False)))
        yield Case(row, str(label), whole["train"].subset(whole["train"].labels == label), marked)


def _tables(_size: Size, root: str | None) -> Iterator[Case]:
    """Every table of the data root; no row is in both parts."""
    for path in sorted(Path(root or "").joinpath("tabular").glob("*.npz"), key=lambda path: path.stem.lower()):
        options = {"table": path.stem, "data_root": root, "unique": True, "shares": (0.6, 0.0, 0.4)}
        train, test = (SOURCES["adbench"](split, **options) for split in SPLITS)
        yield Case("tabular", path.stem, train.subset(train.labels == 0), test)


def _defects(size: Size, root: str | None) -> Iterator[Case]:
    """Images of screws, magnetic tiles and the sound of toy cars; and that sound by few frames, clip by clip."""
    for name in ("mvtec_screw", "magnetic_tile"):
        train, test = (SOURCES[name](split, data_root=root, size=size.side) for split in SPLITS)
        if name == "mvtec_screw":
            train, test = evenly_exposed(train), evenly_exposed(test)
        yield Case("industrial", name, train, test)
    yield _pictures_of_sound(size.side, root)
    train, test = (SOURCES["toycar"](split, data_root=root) for split in ("calibration", "test"))
    kept = np.arange(0, len(test), 1 if size.test is None else EVERY)
    yield Case("sound", "toycar", train, test.subset(kept), kept // WINDOWS)


def _pictures_of_sound(side: int, root: str | None) -> Case:
    """Square spectrograms, from black to white what the training clips hold; a clip is judged by several."""
    train, test = (SOURCES["toycar"](split, frames=FRAMES, data_root=root) for split in ("calibration", "test"))
    low, high = train.inputs.min(), train.inputs.max()

    def pictures(rows: Dataset, every: int) -> tuple[Dataset, NDArray[np.int64]]:
        kept = np.flatnonzero(np.arange(len(rows)) % PICTURES % every == 0)
        chosen = replace(rows.subset(kept), spans=None)
        grey = np.rint(255 * np.clip((chosen.inputs - low) / (high - low), 0, 1)).astype(np.uint8)
        return replace(chosen, inputs=resize(grey.reshape(-1, FRAMES, FRAMES, 1), side, None)), kept // PICTURES

    test, clips = pictures(test, SCORED)
    return Case("industrial", "toycar_spectrograms", pictures(train, LEARNT)[0], test, clips)


def evenly_exposed(images: Dataset) -> Dataset:
    """Every image as bright in the mean: the good screws of the test part were taken in other light than all others."""
    floats = images.inputs.astype(np.float64)
    means = floats.mean(axis=(1, 2, 3), keepdims=True)
    return replace(images, inputs=np.clip(np.rint(floats * (BRIGHTNESS / means)), 0, 255).astype(np.uint8))


def _series(size: Size, root: str | None) -> Iterator[Case]:
    """Windows of telemetry channels and of the series of NAB."""
    window = {"length": LENGTH, "step": STEP, "data_root": root}
    for origin, first in SERIES.items():
        for name in _all_series(origin, root) if size.everything else first:
            source, _, mission = origin.partition("/")
            own = {"mission": mission, "channel": name} if mission else {"series": name}
            train, test = (SOURCES[source](split, **own, **window) for split in SPLITS)
            normal = train.subset(train.labels == 0)
            if test.labels is not None and 0 < test.labels.sum() < len(test):
                yield Case("series", f"{origin}/{name}", normal, test)


def _all_series(origin: str, root: str | None) -> list[str]:
    source, _, mission = origin.partition("/")
    file = f"nasa_{mission}.npz" if mission else "nab.npz"
    ending = "__label"
    return sorted(
        key.removesuffix(ending)
        for key in npz_keys(Path(root or "", "timeseries", file))
        if key.endswith(ending) and source in ("nasa", "nab")
    )


ROWS: dict[str, Callable[[Size, str | None], Iterator[Case]]] = {
    "tabular": _tables,
    "industrial": _defects,
    "series": _series,
}
