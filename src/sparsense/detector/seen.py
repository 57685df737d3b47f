"""What a detector has seen: short hashes of its fitting and calibration inputs, kept in the file."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.data.dataset import Dataset
from sparsense.data.digests import digests
from sparsense.errors import CalibrationError, InputError

FITTED, CALIBRATED = "sparsense.fitted", "sparsense.calibrated"
MOST = 100_000  # inputs: 800 kB; of larger sets nothing is kept
Digests = NDArray[np.uint64]


def check_held_out(fit: Dataset, calibration: Dataset) -> None:
    """Refuse calibration inputs that the head was fitted on: the false-alarm rate is promised for unseen inputs.

    Raises:
        CalibrationError: Some inputs are in both.
    """
    refuse_shared(digests(fit.inputs), digests(calibration.inputs), name=calibration.name, fitted=fit.name)


def refuse_shared(fit: Digests, calibration: Digests, *, name: str, fitted: str) -> None:
    """The same from hashes."""
    if shared := int(np.isin(calibration, fit).sum()):
        raise CalibrationError(
            f"calibrating on {name!r}: expected inputs that the head was not fitted on, found {shared} of "
            f"{len(calibration)} also in {fitted!r}; the guarantee on the false-alarm rate needs unseen ones. Remove "
            "the duplicates"
        )


def properties(fit: NDArray[Any], calibration: NDArray[Any]) -> dict[str, str]:
    """For a model's metadata: hashes of the inputs as the detector takes them."""
    return {FITTED: pack(digests(fit)), CALIBRATED: pack(digests(calibration))}


def pack(found: Digests) -> str:
    """Hashes as text; empty above `MOST`."""
    unique = np.unique(found)
    return "" if len(unique) > MOST else base64.b64encode(unique.astype("<u8").tobytes()).decode()


def unpack(metadata: Mapping[str, str], key: str) -> Digests:
    """The inverse; none where a file keeps none.

    Raises:
        InputError: Something else was stored.
    """
    try:
        content = base64.b64decode(metadata.get(key, ""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"reading what a detector has seen: its hashes are damaged ({error})") from error
    if len(content) % 8 or len(content) > 8 * MOST:
        raise InputError(
            f"reading what a detector has seen: expected up to {MOST:,} hashes, found {len(content)} bytes"
        )
    return np.frombuffer(content, "<u8")


def count_seen(metadata: Mapping[str, str], inputs: NDArray[Any]) -> int:
    """How many inputs a detector was fitted or calibrated on."""
    known = np.concatenate([unpack(metadata, key) for key in (FITTED, CALIBRATED)])
    return int(np.isin(digests(inputs), known).sum())
