"""Your own arrays: .npz and .npy files of images or of rows of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparsense.data.arrays import npz_keys, read_npy, read_npz
from sparsense.data.dataset import Dataset
from sparsense.data.sources import source
from sparsense.data.splits import SHARES, SPLITS, take_split
from sparsense.errors import InputError

INPUT_KEYS = ("images", "inputs", "X")
LABEL_KEYS = ("labels", "y")

ImageLayout = Literal["NHWC", "NCHW"]


@source("npz", *SPLITS)
def npz(
    split: str,
    *,
    path: str,
    inputs: str | None = None,
    labels: str | None = None,
    layout: ImageLayout = "NHWC",
    shares: Sequence[float] = SHARES,
) -> Dataset:
    """An .npz file: images or rows under `images`, `inputs` or `X`, labels (if any) under `labels` or `y`.

    Args:
        split: `all`, or `train`, `calibration`, `test`: disjoint and always the same.
        path: The file.
        inputs: The key of the inputs, where it is another one.
        labels: The key of the labels, where it is another one.
        layout: Of images: `NHWC` (channels last) or `NCHW`. Images without a channel axis are grey.
        shares: Of train, calibration and test.

    Raises:
        InputError: Unknown keys, a dtype or shape that is neither images nor rows, NaN, no samples.
        UnsafeFileError: Pickled objects or an enormous array.
    """
    file = Path(path)
    present = npz_keys(file)
    input_key = inputs or _one_of(INPUT_KEYS, present, file, "inputs")
    label_key = labels or (_one_of(LABEL_KEYS, present, file, "labels") if set(LABEL_KEYS) & set(present) else None)
    arrays = read_npz(file, [input_key] if label_key is None else [input_key, label_key])
    name = f"{file} ({input_key!r})"
    label_array = as_labels(arrays[1], f"{file} ({label_key!r})") if len(arrays) == 2 else None
    return take_split(Dataset(file.stem, as_inputs(arrays[0], name, layout), label_array), split, shares)


@source("npy", *SPLITS)
def npy(
    split: str,
    *,
    path: str,
    labels: str | None = None,
    layout: ImageLayout = "NHWC",
    shares: Sequence[float] = SHARES,
) -> Dataset:
    """An .npy file of images or rows; labels, if any, in a second .npy file.

    Args:
        split: `all`, or `train`, `calibration`, `test`: disjoint and always the same.
        path: The file of the inputs.
        labels: The file of the labels.
        layout: Of images: `NHWC` (channels last) or `NCHW`. Images without a channel axis are grey.
        shares: Of train, calibration and test.

    Raises:
        InputError: A dtype or shape that is neither images nor rows, NaN, no samples.
        UnsafeFileError: Pickled objects or an enormous array.
    """
    file = Path(path)
    label_array = None if labels is None else as_labels(read_npy(Path(labels)), labels)
    return take_split(Dataset(file.stem, as_inputs(read_npy(file), str(file), layout), label_array), split, shares)


def as_inputs(array: NDArray[Any], name: str, layout: ImageLayout = "NHWC") -> NDArray[Any]:
    """An array as a `Dataset` takes it: uint8 images `[N, H, W, C]`, or numbers `[N, D]` as float32."""
    if array.ndim == 2 and array.dtype.kind in "biuf":
        return _as_float32(array, name)
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        hint = " Images of floats in [0, 1]: multiply by 255 and round." if array.dtype.kind == "f" else ""
        raise InputError(
            f"{name}: expected uint8 images [N, H, W, C] or [N, H, W], or rows of numbers [N, D]; "
            f"found {array.dtype} {list(array.shape)}.{hint}"
        )
    if layout not in ("NHWC", "NCHW"):
        raise InputError(f"{name}: expected the layout NHWC or NCHW; got {layout!r}")
    if array.ndim == 3:
        return array[..., None]
    images = np.moveaxis(array, 1, -1) if layout == "NCHW" else array
    if images.shape[3] not in (1, 3):
        raise InputError(
            f"{name}: expected 1 or 3 channels; layout {layout} of {list(array.shape)} gives "
            f"{images.shape[3]}. The option layout says where the channels are (NHWC or NCHW)."
        )
    return np.ascontiguousarray(images)


def as_labels(array: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Labels as int64 `[N]`; `[N, 1]` and floats that are whole numbers are understood."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    whole = array.dtype.kind in "biu" or (array.dtype.kind == "f" and bool((array == np.rint(array)).all()))
    if array.ndim != 1 or not whole:
        raise InputError(
            f"{name}: expected labels [N] of whole numbers, one per sample; found {array.dtype} {list(array.shape)}"
        )
    return array.astype(np.int64)


def _as_float32(array: NDArray[Any], name: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        rows = array.astype(np.float32)
    overflow = np.isinf(rows) & np.isfinite(array)
    if overflow.any():
        row, column = np.argwhere(overflow)[0]
        raise InputError(
            f"{name}: expected numbers within float32; found {array[row, column]} in row {row}, "
            f"column {column}. Rescale that column."
        )
    return rows


def _one_of(known: Sequence[str], present: Sequence[str], file: Path, option: str) -> str:
    found = [key for key in known if key in present]
    if len(found) == 1:
        return found[0]
    problem = f"both {' and '.join(found)}" if found else f"none of {', '.join(known)}"
    raise InputError(
        f"{file}: expected one array of {option}, found {problem} among {', '.join(present) or 'no arrays'}; "
        f"rename it, or name it in a recipe: options: {{{option}: NAME}}"
    )
