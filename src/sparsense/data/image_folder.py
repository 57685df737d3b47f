"""Your own images: a folder with one subfolder per class, or a flat folder without classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsense.data.classes import Classes, in_classes
from sparsense.data.dataset import Dataset, draw
from sparsense.data.images import Size, checked_size, read_image
from sparsense.data.sources import source
from sparsense.data.splits import SHARES, SPLITS, split_indices
from sparsense.errors import InputError, UnsafeFileError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_BYTES = 16 << 30
"""Of all images together, once resized."""


@source("image_folder", *SPLITS)
def image_folder(
    split: str,
    *,
    path: str,
    size: Size,
    channels: int = 3,
    classes: Classes | None = None,
    limit: int | None = None,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
) -> Dataset:
    """A folder of images: one subfolder per class (labels in the order of their names), or flat, unlabelled.

    Labels of two folders need not mean the same: in `test/broken`, `test/good` the good ones have 1, in `train/good` 0.
    So name classes; in a recipe, calibration and test get the labels that the names have in train.

    Only the images that `split`, `classes` and `limit` choose are opened. Files with other endings than those of images
    are skipped, as is everything whose name begins with a dot.

    Args:
        split: `all`, or `train`, `calibration`, `test`: disjoint and always the same.
        path: The folder.
        size: All images are resized to it: the side of a square, or (height, width).
        channels: 3 (RGB) or 1 (grey).
        classes: Only these subfolders, by name or by label; they are then part of the data set's name.
        limit: At most so many images, drawn at random.
        seed: Of that draw.
        shares: Of train, calibration and test.

    Raises:
        InputError: No such folder, no images, or an image that is damaged, empty or a link to nowhere; it is named.
        UnsafeFileError: An image or all together above a limit of size.
    """
    folder = Path(path)
    files, labels, names = list_images(folder)
    chosen = split_indices(np.zeros(len(files), np.int64) if labels is None else labels, split, shares)
    name = f"{folder.name}/{split}"
    if classes is not None:
        chosen = chosen[in_classes(None if labels is None else labels[chosen], classes, names, dataset=name)]
        name = f"{name} ({', '.join(sorted({files[index].parent.name for index in chosen}))})"
    if limit is not None:
        chosen = chosen[draw(len(chosen), limit, seed)]
    height, width = checked_size(size)
    total = len(chosen) * height * width * channels
    if total > MAX_BYTES:
        raise UnsafeFileError(
            f"{len(chosen)} images of {folder} at {height} x {width} need {total:,} bytes; the limit is "
            f"{MAX_BYTES:,}. Choose a smaller size or a limit."
        )
    pixels = np.empty((len(chosen), height, width, channels), np.uint8)  # a list of images would need as much again
    for row, index in enumerate(chosen):
        pixels[row] = read_image(files[index], (height, width), channels)
    return Dataset(name, pixels, None if labels is None else labels[chosen], class_names=names)


def list_images(folder: Path) -> tuple[list[Path], NDArray[np.int64] | None, tuple[str, ...]]:
    """The image files of a folder in the order of their names, and their labels and names if it has subfolders."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    entries = [entry for entry in folder.iterdir() if not _hidden(entry)]
    check_links(entry for entry in entries if not entry.suffix)  # of whole classes
    subfolders = sorted(entry for entry in entries if entry.is_dir())
    loose = _images_in(folder)
    if loose and subfolders:
        raise InputError(
            f"{folder} has images ({loose[0].name}, ...) and subfolders ({subfolders[0].name}, ...); "
            "expected either one subfolder per class, or a flat folder of images"
        )
    groups = [_images_in(subfolder) for subfolder in subfolders]
    for subfolder, group in zip(subfolders, groups, strict=True):
        if not group:
            raise InputError(f"the class folder {subfolder} holds no image ({', '.join(SUFFIXES)})")
    if not loose and not groups:
        raise InputError(f"the folder {folder} holds no image ({', '.join(SUFFIXES)})")
    if not groups:
        return loose, None, ()
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    names = tuple(subfolder.name for subfolder in subfolders)
    return [file for group in groups for file in group], labels.astype(np.int64), names


def image_files(entries: Iterable[Path]) -> list[Path]:
    """The files among entries of folders that end as images do, in the order of their names.

    Raises:
        InputError: A link that leads nowhere: left out, it would be missed by nobody.
    """
    named = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
    check_links(named)
    return sorted(entry for entry in named if entry.is_file())


def check_links(entries: Iterable[Path]) -> None:
    """Refuse links that lead nowhere.

    Raises:
        InputError: There is one; it is named.
    """
    for entry in entries:
        if entry.is_symlink() and not entry.exists():
            raise InputError(
                f"reading the folder {entry.parent}: {entry.name} is a link to {entry.readlink()}, which is not there; "
                "mend the link, or remove it"
            )


def _images_in(folder: Path) -> list[Path]:
    return image_files(entry for entry in folder.iterdir() if not _hidden(entry))


def _hidden(entry: Path) -> bool:
    return entry.name.startswith(".") or entry.name == "__MACOSX"
