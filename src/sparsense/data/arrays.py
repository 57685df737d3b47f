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
"""Of one array, decompressed."""

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
        UnsafeFileError: Pickled objects, or an array above 8 GiB.
    """
    present = npz_keys(path)
    for key in keys:
        if key not in present:
            raise InputError(f"{path} has no array {key!r}; it has {', '.join(present) or 'no arrays'}")
    with _opened(path) as archive:
        return [_member(archive, key, f"{path}, array {key!r},") for key in keys]


def read_npy(path: Path) -> NDArray[Any]:
    """The array of an .npy file; errors as for `read_npz`."""
    size = existing_file(path).stat().st_size
    with damage_named(str(path)), path.open("rb") as stream:
        return _read(stream, size, str(path))


def _member(archive: zipfile.ZipFile, key: str, name: str) -> NDArray[Any]:
    info = archive.getinfo(f"{key}.npy")
    with damage_named(name), archive.open(info) as stream:
        return _read(stream, info.file_size, name)


def _read(stream: IO[bytes], size: int, name: str) -> NDArray[Any]:
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject:
        raise UnsafeFileError(f"{name} holds pickled Python objects, which could run code; save plain numbers")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > MAX_BYTES:
        raise UnsafeFileError(f"{name} is refused: {wanted:,} bytes; the limit is {MAX_BYTES:,}")
    if wanted > size:
        raise InputError(f"{name} is cut off: expected {wanted:,} bytes of numbers; the file holds fewer")
    data = bytearray(stream.read(wanted))
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type that a stream says at its beginning."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"version {version} of the format is only for structured arrays")


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
