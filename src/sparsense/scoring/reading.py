"""The rows of a piece as batches that a detector takes, each row with its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.data import images
from sparsense.data.array_rows import array_rows, outline
from sparsense.data.preprocessing import Preprocessing
from sparsense.data.table_rows import Part, csv_rows, parquet_rows
from sparsense.errors import InputError
from sparsense.runtime import ExportedDetector
from sparsense.scoring.pieces import ARRAYS, Piece

Batch = tuple[list[str], NDArray[Any]]


def read(piece: Piece, detector: ExportedDetector, size: int) -> Iterator[Batch]:
    """Names and inputs of at most `size` rows at a time; memory does not grow with the piece.

    Args:
        piece: What to read.
        detector: Says what an input looks like; of one that judges groups, a row is a group of consecutive inputs.
        size: Rows per batch.

    Raises:
        InputError: Nothing there, damage, or something the detector does not take, such as half a group.
    """
    found = _singles(piece, detector, size * detector.group)
    yield from found if detector.group == 1 else in_groups(found, detector.group)


def in_groups(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Consecutive inputs in groups, `[groups, size, ...]`, with the names of the first and the last.

    Raises:
        InputError: Some are left over at the end, or those of a group have several shapes.
    """
    names: list[str] = []
    waiting: list[NDArray[Any]] = []
    for found, part in batches:
        names, waiting = [*names, *found], [*waiting, *part]
        if full := len(names) // size * size:
            yield _grouped(names[:full], waiting[:full], size)
            names, waiting = names[full:], waiting[full:]
    if names:
        raise InputError(
            f"grouping inputs: expected a multiple of {size}, as the detector judges so many as one; found "
            f"{len(names)} left over, from {names[0]} on; leave them out, or complete the group"
        )


def _grouped(names: list[str], inputs: list[NDArray[Any]], size: int) -> Batch:
    if len(shapes := {one.shape for one in inputs}) > 1:
        raise InputError(
            f"grouping inputs {names[0]} to {names[-1]}: expected one shape, found {' and '.join(map(str, shapes))}"
        )
    starts = range(0, len(names), size)
    groups = np.stack(inputs).reshape(len(starts), size, *inputs[0].shape)
    return [f"{names[start]} .. {names[start + size - 1]}" for start in starts], groups


def _singles(piece: Piece, detector: ExportedDetector, size: int) -> Iterator[Batch]:
    """Names and single inputs."""
    if not piece.kind:
        yield from _images(detector, [Path(file) for file in piece.files], size)
        return
    path = Path(piece.files[0])
    row = piece.start
    for part in _parts(piece, path, detector, size):
        yield [f"{path}:{number}" for number in range(row, row + len(part))], part
        row += len(part)


def _parts(piece: Piece, path: Path, detector: ExportedDetector, size: int) -> Iterator[NDArray[Any]]:
    if piece.kind in ARRAYS:
        detector.check(outline(path), single=True)  # before a row of any size is read
        yield from array_rows(path, size, start=piece.start, stop=piece.stop)
        return
    if piece.kind == ".csv":
        parts = csv_rows(path, size, start=piece.start, stop=piece.stop, byte=piece.byte)
    else:
        parts = parquet_rows(path, size, start=piece.start, stop=piece.stop)
    inputs = _numbers if piece.kind == ".csv" else _from_parquet
    first = piece.start + 1  # as people count rows
    for part in parts:
        yield inputs(part, detector, path, first)
        first += len(next(iter(part.values())))


def _from_parquet(part: Part, detector: ExportedDetector, path: Path, first_row: int) -> NDArray[Any]:
    """Image files in a column, lists of numbers in a column, or columns of numbers and words."""
    for values in part.values():
        first = next((value for value in values if value is not None), None)
        content = first.get("bytes") if isinstance(first, dict) else first
        if isinstance(content, bytes):
            return _stored_images(values, detector, path)
    if len(part) == 1 and isinstance(next(iter(part.values()))[0], list):
        return _lists(next(iter(part.values())), detector, path)
    return _numbers(part, detector, path, first_row)


def _stored_images(values: Sequence[Any], detector: ExportedDetector, path: Path) -> NDArray[Any]:
    """Encoded images, bare or as `{bytes, path}`, the form that image data sets are published in."""
    height, width, channels = image_shape(detector, path)
    if height is None or width is None:
        raise InputError(
            f"{detector.path.name} takes images of any size, so those of {path} cannot be joined; scale them"
        )
    contents = [value["bytes"] if isinstance(value, dict) else value for value in values]
    if None in contents:
        raise InputError(f"{path}: an image is missing (null) among rows that hold images")
    return _laid_out(
        np.stack([images.read_image(content, (height, width), channels) for content in contents]), detector
    )


def _lists(values: Sequence[Any], detector: ExportedDetector, path: Path) -> NDArray[Any]:
    sizes = [1 if size is None else size for size in detector.single_shape]
    try:
        return np.asarray(values, detector.dtype).reshape(len(values), *sizes)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(
            f"{path}: its lists are not what {detector.path.name} takes ({detector.takes}): {error}"
        ) from error


def _numbers(part: Part, detector: ExportedDetector, path: Path, first_row: int) -> NDArray[Any]:
    """Rows of a table: by the columns that the detector knows, or all of its columns as they are."""
    encoding = Preprocessing.from_dict(detector.preprocessing).encoding
    if encoding is not None:
        columns = {name: [_text(value) for value in values] for name, values in part.items()}
        count = len(next(iter(columns.values()), ()))
        return encoding.codes(columns, rows=range(first_row, first_row + count))
    if detector.layout != "ND":
        raise InputError(f"{detector.path.name} takes {detector.takes}; the table {path} has columns {', '.join(part)}")
    try:
        return np.array([[float(value) for value in values] for values in part.values()], np.float32).T
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path}: expected numbers in every column, as {detector.path.name} knows no columns by name; found "
            f"{', '.join(part)} ({error}); leave out what is no input, or make the detector from a source `table`"
        ) from error


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _images(detector: ExportedDetector, files: Sequence[Path], size: int) -> Iterator[Batch]:
    """Images at the size and with the channels of the detector; of a free size: one by one, as they are."""
    height, width, channels = image_shape(detector, files[0])
    shape = (height, width) if height and width else None
    step = size if shape else 1
    for start in range(0, len(files), step):
        part = files[start : start + step]
        pixels = np.stack([images.read_image(file, shape, channels) for file in part])
        yield [str(file) for file in part], _laid_out(pixels, detector)


def image_shape(detector: ExportedDetector, file: Path) -> tuple[int | None, int | None, int]:
    """Height, width and channels that the detector takes."""
    if detector.dtype != "uint8" or len(detector.single_shape) != 3:
        kinds = ".csv, .parquet, .npy or .npz files" if detector.layout == "ND" else ".npy or .npz files"
        raise InputError(
            f"{detector.path.name} does not take image files such as {file}, but {detector.takes}: give {kinds}"
        )
    first, second, third = detector.single_shape
    height, width, channels = (first, second, third) if detector.layout == "NHWC" else (second, third, first)
    return height, width, 3 if channels is None else channels


def _laid_out(pixels: NDArray[Any], detector: ExportedDetector) -> NDArray[Any]:
    return pixels if detector.layout == "NHWC" else np.moveaxis(pixels, -1, 1)
