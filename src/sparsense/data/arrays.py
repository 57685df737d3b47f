"""Reading .npy and .npz files of strangers: no pickles, and nothing allocated on the word of a header."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sparsense.errors import InputError, UnsafeFileError

MAX_BYTES = 8 << 30
"""Of all arrays that are read of one file, decompressed."""

_BROKEN = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    RuntimeError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def npz_keys(path: Path) -> list[str]:
    """The names of the arrays in an .npz file."""
    with _opened(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_npz(path: Path, keys: Sequence[str]) -> list[NDArray[Any]]:
    """Some arrays of an .npz file, in the order of `keys`.

    Raises:
        InputError: No such file, key, or a damaged file.
        UnsafeFileError: Pickled objects, or arrays above 8 GiB together.
    """
    present = npz_keys(path)
    for key in keys:
        if key not in present:
            raise InputError(f"{path} has no array {key!r}; it has {', '.join(present) or 'no arrays'}")
    found: list[NDArray[Any]] = []
    with _opened(path) as archive:
        for key in keys:
            read = sum(array.nbytes for array in found)
            found.append(_member(archive, key, f"{path}, array {key!r},", limit=MAX_BYTES - read))
    return found


def read_npy(path: Path) -> NDArray[Any]:
    """The array of an .npy file; errors as for `read_npz`."""
    size = existing_file(path).stat().st_size
    with damage_named(str(path)), path.open("rb") as stream:
        return _read(stream, size, str(path), limit=MAX_BYTES)


def _member(archive: zipfile.ZipFile, key: str, name: str, *, limit: int) -> NDArray[Any]:
    info = archive.getinfo(f"{key}.npy")
    with damage_named(name), archive.open(info) as stream:
        return _read(stream, info.file_size, name, limit=limit)


def _read(stream: IO[bytes], size: int, name: str, *, limit: int) -> NDArray[Any]:
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject:
        raise UnsafeFileError(f"{name} holds pickled Python objects, which could run code; save plain numbers")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > limit:
        read = f", and {MAX_BYTES - limit:,} of the same file were read" if limit < MAX_BYTES else ""
        raise UnsafeFileError(f"{name} is refused: {wanted:,} bytes{read}; the limit is {MAX_BYTES:,}")
    if wanted > size:
        raise InputError(f"{name} is cut off: expected {wanted:,} bytes of numbers; the file holds fewer")
    data = bytearray(stream.read(wanted))
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type that a stream says at its beginning."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format is only for structured arrays")
    one, two = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    shape, fortran, dtype = (one if version == (1, 0) else two)(stream)
    if min(shape, default=0) < 0:  # two of them make a product that no limit catches
        raise ValueError(f"its header says the shape {shape}")
    return shape, fortran, dtype


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with damage_named(str(path)), zipfile.ZipFile(existing_file(path)) as archive:
        yield archive


@contextmanager
def damage_named(name: str) -> Iterator[None]:
    """What the readers of zip archives and arrays raise over damaged files, as one error that names the file."""
    try:
        yield
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(f"{name} is damaged, or not in NumPy's format: {error}") from error


def existing_file(path: Path) -> Path:
    """The path, if a file is there."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    return path
