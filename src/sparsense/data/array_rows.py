"""Rows of .npy and .npz files one piece after the other, in memory that does not grow with the file."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sparsense.data.array_files import INPUT_KEYS
from sparsense.data.arrays import damage_named, existing_file, npz_keys, read_header, read_npz
from sparsense.errors import InputError, UnsafeFileError

ROW_BYTES = 1 << 30
"""Of one row."""
BATCH_BYTES = 256 << 20
"""Of several rows at a time."""


def array_shape(path: Path) -> tuple[int, ...]:
    """The shape of the inputs in a file; only its header is read."""
    return outline(path).shape


def outline(path: Path) -> NDArray[Any]:
    """An array of the type and shape of the inputs in a file, all zeros, which takes no memory: only a header is read.

    Raises:
        InputError: No such file, no array of inputs in it, or damage.
        UnsafeFileError: Pickled objects.
    """
    with _opened(path) as (stream, size, name):
        shape, _, dtype = _checked_header(stream, size, name)
    return np.broadcast_to(np.zeros((), dtype), shape)


def array_rows(path: Path, size: int, *, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
    """Rows `start` to `stop` of the inputs in a file, at most `size` or 256 MiB at a time.

    Args:
        path: `.npy`, or `.npz` with inputs under one of `INPUT_KEYS`, or with a single array.
        size: Rows at a time.
        start: The first row.
        stop: The row after the last one; None: to the end.

    Raises:
        InputError: No such file, no array of inputs in it, or damage.
        UnsafeFileError: Pickled objects, or a row above 1 GiB.
    """
    with _opened(path) as (stream, bytes_, name):
        shape, fortran, dtype = _checked_header(stream, bytes_, name)
        row = math.prod(shape[1:]) * dtype.itemsize
        size = min(size, max(1, BATCH_BYTES // max(row, 1)))
        end = shape[0] if stop is None else min(stop, shape[0])
        if fortran:  # a row is scattered over the whole file
            whole = _in_fortran_order(path)
            yield from (whole[first : min(first + size, end)] for first in range(start, end, size))
            return
        stream.seek(start * row, 1)
        for first in range(start, end, size):
            count = min(size, end - first)
            with damage_named(name):
                data = stream.read(count * row)
                yield np.frombuffer(bytearray(data), dtype).reshape(count, *shape[1:])


def _checked_header(stream: IO[bytes], size: int, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type of the array; the stream then stands at its numbers."""
    with damage_named(name):
        shape, fortran, dtype = read_header(stream)
    if dtype.hasobject:
        raise UnsafeFileError(f"{name} holds pickled Python objects, which could run code; save plain numbers")
    if not shape:
        raise InputError(f"{name} holds a single number; expected an array with the samples along its first axis")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > size - stream.tell():
        raise InputError(f"{name} is cut off: expected {wanted:,} bytes of numbers; the file holds fewer")
    if shape[0] and wanted // shape[0] > ROW_BYTES:
        raise UnsafeFileError(
            f"{name} is refused: one row has {wanted // shape[0]:,} bytes; the limit is {ROW_BYTES:,}"
        )
    return shape, fortran, dtype


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], int, str]]:
    """A stream of an array with its header, its size in bytes, and what to call it."""
    if path.suffix.lower() != ".npz":
        with existing_file(path).open("rb") as stream:
            yield stream, path.stat().st_size, str(path)
        return
    key = _input_key(path, npz_keys(path))
    with damage_named(str(path)), zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{key}.npy")
        with archive.open(info) as member:
            yield member, info.file_size, f"{path}, array {key!r},"


def _input_key(path: Path, present: Sequence[str]) -> str:
    usable = [key for key in INPUT_KEYS if key in present] or (list(present) if len(present) == 1 else [])
    if len(usable) != 1:
        raise InputError(
            f"{path}: expected one of the arrays {', '.join(INPUT_KEYS)}, or a single array; found {list(present)}"
        )
    return usable[0]


def _in_fortran_order(path: Path) -> NDArray[Any]:
    if path.suffix.lower() == ".npz":
        return read_npz(path, [_input_key(path, npz_keys(path))])[0]
    with damage_named(str(path)):
        mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped
