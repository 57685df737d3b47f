"""Parity: a file's scores against an oracle's, stored in the file so that anyone can ask again."""

from __future__ import annotations

import base64
import binascii
import io
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.errors import ExportError, InputError

BATCH_SIZES = (1, 2, 7, 32)
ROUNDING = 2.0**-21  # some float32 rounding errors, relative
DISTURBANCES = 3
MORE_DISTURBANCES = 24  # where a file and its oracle differ: three may all have moved away from a kink
CLEARLY = 10  # times the tolerance: no rounding in another order
MAXIMUM_STORED = 64 * 1024**2  # of a stranger's file: no more than this is unpacked

READING = "reading the stored parity inputs"
DAMAGED = (binascii.Error, zlib.error, zipfile.BadZipFile, LookupError, TypeError, ValueError, EOFError, MemoryError)

Array = NDArray[Any]


@dataclass(frozen=True)
class Parity:
    """Inputs, and what an independent computation says about them.

    Attributes:
        inputs: As the detector takes them, `[n, ...]`.
        scores: float64 `[n]`, the oracle's.
        oracle: What computed them.
        tolerance: Largest relative error at which a file is kept.
    """

    inputs: Array
    scores: NDArray[np.float64]
    oracle: str
    tolerance: float

    def pack(self) -> str:
        """As text for a model's metadata: base64 of zlib of a pickle-free npz."""
        buffer = io.BytesIO()
        np.savez(buffer, inputs=self.inputs, scores=self.scores, oracle=self.oracle, tolerance=self.tolerance)
        return base64.b64encode(zlib.compress(buffer.getvalue(), 9)).decode()

    def without(self, which: NDArray[np.bool_]) -> Parity:
        """All but some of the inputs.

        Raises:
            ExportError: None would be left.
        """
        if which.all():
            raise ExportError(
                "storing inputs for a later verification: expected random ones on which scores are steady, found none; "
                "only real ones would be left, and these are not to be stored"
            )
        return Parity(self.inputs[~which], self.scores[~which], self.oracle, self.tolerance)

    @classmethod
    def unpack(cls, text: str) -> Parity:
        """The inverse of `pack`; a text that was tampered with, or that swells, is an InputError."""
        try:
            content = _inflate(base64.b64decode(text, validate=True))
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                found = cls(stored["inputs"], stored["scores"], str(stored["oracle"]), float(stored["tolerance"]))
        except InputError:
            raise
        except DAMAGED as error:
            raise InputError(f"{READING}: they are damaged ({error}); export the detector again") from error
        if not 0 < len(found.inputs) == len(found.scores) or not np.isfinite(found.scores).all():
            raise InputError(
                f"{READING}: expected a finite score for each input, found {len(found.inputs)} inputs and scores "
                f"{found.scores}; export the detector again"
            )
        return found


def _inflate(packed: bytes) -> bytes:
    """Never more than `MAXIMUM_STORED` bytes, neither here nor when the archive inside is read."""
    inflater = zlib.decompressobj()
    content = inflater.decompress(packed, MAXIMUM_STORED)
    size = len(content) + len(inflater.unconsumed_tail)
    if not inflater.unconsumed_tail:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    if size > MAXIMUM_STORED:
        raise InputError(f"{READING}: expected at most {MAXIMUM_STORED:,} bytes, found more; refused")
    return content


def steady(
    inputs: Array, scores: Array, disturbed: Sequence[Array], *, oracle: str, tolerance: float, count: int = 32
) -> Parity:
    """The inputs on which a float32 program can be judged.

    Where an activation lies within rounding of a kink (a ReLU at 0, two equal logits), the gradient jumps: two
    correct programs may then stand on different sides. Such inputs are recognised by the oracle alone, without looking
    at the file: its own score moves by more than the tolerance when weights move by a rounding error.

    Args:
        inputs: Drawn inputs, `[n, ...]`.
        scores: The oracle's, `[n]`.
        disturbed: The oracle's again, with `disturb`ed weights, each `[n]`.
        oracle: What computed them; how many inputs were left out is added.
        tolerance: Of the comparison.
        count: At most so many inputs are kept.

    Raises:
        ExportError: Fewer than half of the inputs are steady: the score itself is at fault.
    """
    moved = np.max(np.abs(np.asarray(disturbed) - scores), axis=0) / _scale(scores)
    kept = np.flatnonzero(moved <= tolerance)
    if len(kept) < max(2, len(scores) / 2):
        raise ExportError(
            f"preparing the comparison with the oracle ({oracle}): expected scores that move by less than "
            f"{tolerance:.0e} when weights move by a rounding error, found {len(scores) - len(kept)} of {len(scores)} "
            f"that move more (median {np.median(moved):.1e}); the score is ill-conditioned in float32",
            worst=float(np.median(moved)),
        )
    left_out = len(scores) - len(kept)
    note = f"; {left_out} of {len(scores)} drawn inputs left out, within rounding of a kink" if left_out else ""
    chosen = kept[:count]
    return Parity(inputs[chosen], np.asarray(scores[chosen], np.float64), oracle + note, tolerance)


def settled(
    inputs: Array, scores: Array, found: Sequence[Array], ask: Callable[[Array, int], Array], *, oracle: str,
    tolerance: float, count: int = 32,
) -> Parity:  # fmt: skip
    """The steady inputs; those on which a float32 program differs are asked about more often.

    A kink within rounding may be missed by a few disturbances, which may all lead away from it. So where scores differ,
    the oracle is asked again, and still decides alone: a fault of the program shows on steady inputs, which stay.

    Args:
        inputs: Drawn inputs, `[n, ...]`.
        scores: The oracle's, `[n]`.
        found: The program's, each `[n]`.
        ask: Inputs and a seed -> the oracle's scores with disturbed weights.
        oracle: As for `steady`.
        tolerance: Of the comparison.
        count: At most so many inputs are kept.

    Raises:
        ExportError: As `steady`.
    """
    disturbed = [ask(inputs, seed) for seed in range(DISTURBANCES)]
    error = np.max(np.abs(np.asarray(found) - scores), axis=0) / _scale(scores)
    doubtful = np.flatnonzero(~(error <= tolerance))
    for seed in range(DISTURBANCES, DISTURBANCES + MORE_DISTURBANCES if len(doubtful) else 0):
        again = np.array(scores)
        again[doubtful] = ask(inputs[doubtful], seed)
        disturbed.append(again)
    return steady(inputs, scores, disturbed, oracle=oracle, tolerance=tolerance, count=count)


def disturb(weight: Array, random: np.random.Generator) -> Array:
    """A weight moved by about a float32 rounding error."""
    return np.asarray(weight * (1 + ROUNDING * random.standard_normal(weight.shape)))


def _scale(scores: Array) -> Array:
    """What errors of scores are relative to; float32 has nothing below its smallest number, so 0 equals 0."""
    return np.asarray(np.maximum(np.maximum(np.abs(scores), scores.std()), np.finfo(np.float32).tiny))


def compare(
    score: Callable[[Array], Array], parity: Parity, *, batch_sizes: Sequence[int] = BATCH_SIZES
) -> list[dict[str, Any]]:
    """Score the stored inputs in batches of each size and compare with the oracle.

    error = max_i |score_i - oracle_i| / max(|oracle_i|, spread), where spread is the standard deviation of the
    oracle's scores: a score that happens to lie near 0 is judged on the scale on which scores differ.

    Args:
        score: Inputs of any batch size -> scores `[n]`.
        parity: What to compare with.
        batch_sizes: Batches to cut the inputs into; inputs repeat where there are fewer than a batch.

    Returns:
        A row per batch size: `batch`, `inputs`, `error`, `tolerance`, `agrees`.
    """
    scale = _scale(parity.scores)
    rows = []
    for size in batch_sizes:
        count = max(size, len(parity.inputs) // size * size)
        order = np.arange(count) % len(parity.inputs)
        found = np.concatenate([score(parity.inputs[order[start : start + size]]) for start in range(0, count, size)])
        error = float(np.max(np.abs(found - parity.scores[order]) / scale[order]))
        agrees = bool(error <= parity.tolerance)
        rows.append({"batch": size, "inputs": count, "error": error, "tolerance": parity.tolerance, "agrees": agrees})
    return rows


def require(rows: Sequence[dict[str, Any]], *, what: str, oracle: str) -> None:
    """Refuse to go on when a row disagrees."""
    worst = max(rows, key=lambda row: np.inf if np.isnan(row["error"]) else row["error"])
    alone = all(row["agrees"] for row in rows if row["batch"] == 1)
    if alone and not worst["error"] <= CLEARLY * worst["tolerance"]:
        raise ExportError(
            f"exporting {what}: expected scores that do not depend on the other inputs of a batch, found that they "
            f"are those of the oracle ({oracle}) one by one, and differ by {worst['error']:.1e} at batch "
            f"{worst['batch']}; the file was not kept. The network seems to mix its samples, such as by statistics "
            "over the batch: export it in inference mode",
            worst=worst["error"],
        )
    if not worst["agrees"]:
        raise ExportError(
            f"exporting {what}: expected scores within {worst['tolerance']:.0e} of the oracle ({oracle}), found a "
            f"relative error of {worst['error']:.1e} at batch {worst['batch']}; the file was not kept. "
            "Raise the tolerance (attach --tolerance; export.tolerance of a recipe) only if such an error is harmless",
            worst=worst["error"],
        )
