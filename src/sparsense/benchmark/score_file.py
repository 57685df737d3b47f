"""`scores.npz`, the scores behind a card: one float array per variant, head and data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sparsense.benchmark.metrics import Array
from sparsense.data.arrays import npz_keys, read_npz
from sparsense.errors import InputError
from sparsense.files import atomic_write


class ScoreKey(NamedTuple):
    """Whose scores, on what: stored under `variant/head/dataset`."""

    variant: str
    head: str
    dataset: str


def write_scores(path: str | Path, scores: Mapping[ScoreKey, ArrayLike]) -> None:
    """Write scores `[N]` per key, in the order of the inputs, compressed and without pickles."""
    arrays = {"/".join(key): np.asarray(values, np.float64) for key, values in scores.items()}
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


def read_scores(path: str | Path) -> dict[ScoreKey, Array]:
    """Read what `write_scores` wrote.

    Raises:
        InputError: No such file, damaged, or keys of another form.
    """
    file = Path(path)
    names = npz_keys(file)
    malformed = [name for name in names if name.count("/") < 2]
    if malformed:
        raise InputError(f"{file}: expected arrays named variant/head/dataset; found {malformed[0]!r}")
    arrays = read_npz(file, names)
    return {ScoreKey(*name.split("/", 2)): array for name, array in zip(names, arrays, strict=True)}
