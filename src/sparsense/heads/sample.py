"""A uniform sample of streamed rows in bounded memory, the same for any batch size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.errors import CalibrationError
from sparsense.heads.classes import finite

Rows = NDArray[np.float64]


def sample(batches: Iterable[NDArray[Any]], limit: int, *, seed: int = 0) -> Rows:
    """At most `limit` rows, drawn without replacement, in the order of the stream.

    Every row gets a random key by its position; the rows with the smallest keys are kept.

    Args:
        batches: `[n, D]` each.
        limit: How many rows at most.
        seed: Of the keys.

    Raises:
        CalibrationError: No rows at all.

    Example:
        >>> sample([np.arange(6.0).reshape(3, 2), np.ones((2, 2))], 4).shape
        (4, 2)
    """
    generator = np.random.PCG64(seed)
    kept: list[Rows] = []
    keys = np.empty(0, np.uint64)
    for batch in batches:
        kept.append(finite(batch))
        keys = np.concatenate([keys, generator.random_raw(len(batch))])
        if len(keys) > 2 * limit:
            kept, keys = _smallest(kept, keys, limit)
    if not kept:
        raise CalibrationError("fitting a head: expected observations, found none", needed=1)
    return _smallest(kept, keys, limit)[0][0]


def _smallest(kept: list[Rows], keys: NDArray[np.uint64], limit: int) -> tuple[list[Rows], NDArray[np.uint64]]:
    chosen = np.sort(np.argsort(keys, kind="stable")[:limit])
    return [np.concatenate(kept)[chosen]], keys[chosen]
