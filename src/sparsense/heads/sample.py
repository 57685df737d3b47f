"""A uniform sample of streamed rows in bounded memory, the same for any batch size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    keeper = Sample(limit, seed=seed)
    for _ in keeper.watch(batches):
        pass
    return keeper.rows()


class Sample:
    """The same while the rows pass by on their way to something else.

    Args:
        limit: How many rows at most.
        seed: Of the keys.
    """

    def __init__(self, limit: int, *, seed: int = 0) -> None:
        self._limit, self._generator = limit, np.random.PCG64(seed)
        self._kept: list[Rows] = []
        self._keys = np.empty(0, np.uint64)

    def watch(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """The batches as they are; InputError when one is not finite."""
        for batch in batches:
            self._kept.append(finite(batch))
            self._keys = np.concatenate([self._keys, self._generator.random_raw(len(batch))])
            if len(self._keys) > 2 * self._limit:
                self._kept, self._keys = _smallest(self._kept, self._keys, self._limit)
            yield batch

    def rows(self) -> Rows:
        """What was drawn of all that passed."""
        if not self._kept:
            raise CalibrationError("fitting a head: expected observations, found none", needed=1)
        return _smallest(self._kept, self._keys, self._limit)[0][0]


def _smallest(kept: list[Rows], keys: NDArray[np.uint64], limit: int) -> tuple[list[Rows], NDArray[np.uint64]]:
    chosen = np.sort(np.argsort(keys, kind="stable")[:limit])
    return [np.concatenate(kept)[chosen]], keys[chosen]
