"""What a detector has seen: short hashes of its fitting and calibration inputs, kept in the file."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.data.dataset import Dataset
from sparsense.data.digests import digests
from sparsense.errors import CalibrationError, InputError
from sparsense.parity import Parity

FITTED, CALIBRATED = "sparsense.fitted", "sparsense.calibrated"
MOST = 100_000  # hashes: 800 kB
OVERLOOKED = 0.01  # of calibration inputs: so few fitted ones change a false-alarm rate by a hundredth of itself
Digests = NDArray[np.uint64]


def held_out(fit: Dataset, calibration: Dataset) -> Dataset:
    """The calibration inputs that the head is not fitted on: the false-alarm rate is promised for unseen inputs.

    Raises:
        CalibrationError: There are none.
    """
    kept = unseen(digests(fit.inputs), digests(calibration.inputs), name=calibration.name, fitted=fit.name)
    return calibration if kept.all() else calibration.subset(kept)


def unseen(fit: Digests, calibration: Digests, *, name: str, fitted: str, share: float = 1.0) -> NDArray[np.bool_]:
    """Which calibration inputs the head was not fitted on, `[n]`; rows of a table, empty images repeat.

    Args:
        fit: Hashes of the fitting inputs, or a part of them.
        calibration: Hashes of the calibration inputs, `[n]`.
        name: What messages call the calibration inputs.
        fitted: What they call the fitting inputs.
        share: How large the part is.

    Raises:
        CalibrationError: All were fitted on; or, where only a part of the hashes is known, too many are likely to be.
    """
    known = np.isin(calibration, fit)
    others = len(np.unique(calibration[known])) * (1 / share - 1)
    if known.all() or others > OVERLOOKED * len(calibration):
        about = f"{known.sum()}" if share == 1 else f"about {known.sum() + others:.0f}"
        raise CalibrationError(
            f"calibrating on {name!r}: expected inputs that the head was not fitted on, found {about} of "
            f"{len(calibration)} also in {fitted!r}; the guarantee on the false-alarm rate needs unseen ones. Give "
            "others"
        )
    return ~known


@contextmanager
def left_out_named(count: int) -> Iterator[None]:
    """A refusal for want of calibration inputs says how many were left out."""
    try:
        yield
    except CalibrationError as error:
        if count:
            error.add_note(f"{count:,} more calibration inputs were left out: the head was fitted on equal ones")
        raise


def properties(fit: NDArray[Any], calibration: NDArray[Any]) -> dict[str, str]:
    """For a model's metadata: hashes of the inputs as the detector takes them."""
    return {FITTED: pack(digests(fit)), CALIBRATED: pack(digests(calibration))}


def without_inputs(parity: Parity, given: NDArray[Any]) -> Parity:
    """For a private file: what it is verified with later, less the calibration inputs."""
    return parity.without(np.isin(digests(parity.inputs), digests(given)))


def pack(found: Digests) -> str:
    """Hashes as text; of more than `MOST`, the smallest, a uniform sample that tells its own share."""
    return base64.b64encode(np.unique(found)[:MOST].astype("<u8").tobytes()).decode()


def kept_share(hashes: Digests) -> float:
    """Which part of the inputs' hashes `unpack` gave: of hashes, numbers below 2^64, all up to the largest are kept."""
    return 1.0 if len(hashes) < MOST else (float(hashes[-1]) + 1) / 2.0**64


def unpack(metadata: Mapping[str, str], key: str) -> Digests:
    """What `pack` kept, ascending; none where a file keeps none.

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
    return np.unique(np.frombuffer(content, "<u8"))


def count_seen(metadata: Mapping[str, str], hashes: Digests) -> int | None:
    """How many inputs a detector was fitted or calibrated on; an estimate where it keeps a part of its hashes.

    None where the file keeps none.
    """
    kept = [found for key in (FITTED, CALIBRATED) if len(found := unpack(metadata, key))]
    if not kept:
        return None
    return min(len(hashes), sum(round(int(np.isin(hashes, part).sum()) / kept_share(part)) for part in kept))
