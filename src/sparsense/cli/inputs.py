"""What the user wants scored, as batches of bounded size: images, folders, arrays, lists of paths."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.errors import InputError
from sparsense.runtime import ExportedDetector

Batch = tuple[list[str], NDArray[Any]]
ARRAY_SUFFIXES = (".npy", ".npz")


def batches(detector: ExportedDetector, names: Iterable[str], *, size: int = 64) -> Iterator[Batch]:
    """Names and inputs of at most `size` samples at a time.

    Args:
        detector: Says what an input looks like.
        names: Image files, folders of images (subfolders included), .npy or .npz files, or `-`: paths, one per
            line, on standard input.
        size: Samples per batch.

    Raises:
        InputError: Nothing there, nothing to score in it, or something the detector does not take.
    """
    images: list[Path] = []
    for path in _paths(names):
        if path.suffix.lower() in ARRAY_SUFFIXES:
            yield from _image_batches(detector, images, size)
            images = []
            yield from _array_batches(path, size)
        else:
            images.append(path)
            if len(images) == size:
                yield from _image_batches(detector, images, size)
                images = []
    yield from _image_batches(detector, images, size)


def _paths(names: Iterable[str]) -> Iterator[Path]:
    """Files, in order; a folder stands for the images in it."""
    for name in names:
        if name == "-":
            yield from _paths(line.rstrip("\r\n") for line in sys.stdin if line.strip())
        elif Path(name).is_dir():
            yield from _images_below(Path(name))
        else:
            yield Path(name)


def _images_below(folder: Path) -> list[Path]:
    from sparsense.data.image_folder import SUFFIXES

    files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    visible = [f for f in files if not any(part.startswith(".") for part in f.relative_to(folder).parts)]
    if not visible:
        raise InputError(f"the folder {folder} holds no image ({', '.join(SUFFIXES)})")
    return sorted(visible)


def _image_batches(detector: ExportedDetector, files: list[Path], size: int) -> Iterator[Batch]:
    """Images at the size and with the channels of the detector; of a free size: one by one, as they are."""
    if not files:
        return
    from sparsense.data.images import read_image

    height, width, channels = _image_shape(detector, files[0])
    step = size if height and width else 1
    for start in range(0, len(files), step):
        part = files[start : start + step]
        shape = (height, width) if height and width else None
        pixels = np.stack([read_image(file, shape, channels) for file in part])
        yield [str(f) for f in part], pixels if detector.layout == "NHWC" else np.moveaxis(pixels, -1, 1)


def _image_shape(detector: ExportedDetector, file: Path) -> tuple[int | None, int | None, int]:
    """Height, width and channels that the detector takes."""
    if detector.dtype != "uint8" or len(detector.input_shape) != 3:
        raise InputError(
            f"{detector.path.name} does not take image files such as {file}, but {detector.takes}: "
            "give .npy or .npz files"
        )
    first, second, third = detector.input_shape
    height, width, channels = (first, second, third) if detector.layout == "NHWC" else (second, third, first)
    return height, width, 3 if channels is None else channels


def _array_batches(path: Path, size: int) -> Iterator[Batch]:
    """Rows of an array file, named `path:row`; .npy is mapped into memory, of .npz one array is read."""
    array = _open_npy(path) if path.suffix.lower() == ".npy" else _read_npz(path)
    if array.ndim == 0:
        raise InputError(f"{path} holds a single number; expected an array with the samples along its first axis")
    for start in range(0, len(array), size):
        part = np.asarray(array[start : start + size])
        yield [f"{path}:{row}" for row in range(start, start + len(part))], part


def _open_npy(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is not a readable .npy file: {error}") from error
    return mapped


def _read_npz(path: Path) -> NDArray[Any]:
    from sparsense.data.array_files import INPUT_KEYS
    from sparsense.data.arrays import npz_keys, read_npz

    present = npz_keys(path)
    usable = [key for key in INPUT_KEYS if key in present] or (present if len(present) == 1 else [])
    if len(usable) != 1:
        raise InputError(
            f"{path}: expected one of the arrays {', '.join(INPUT_KEYS)}, or a single array; found {present}"
        )
    return read_npz(path, usable)[0]
