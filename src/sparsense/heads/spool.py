"""Streamed rows kept in a temporary file, to be streamed again: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.heads.classes import finite

IN_MEMORY = 64 * 2**20  # bytes; more go to the disk
BLOCK = 4 * 2**20  # bytes that are read at once
Rows = NDArray[np.float32]


@contextmanager
def spooled(batches: Iterable[NDArray[Any]]) -> Iterator[Spool]:
    """Keep rows [m, D] of batches while the context lasts; InputError when one is not finite.

    Example:
        >>> with spooled([np.eye(2), np.zeros((1, 2))]) as spool:
        ...     len(spool), [block.tolist() for block in spool.blocks(np.array([False, True, True]))]
        (3, [[[0.0, 1.0], [0.0, 0.0]]])
    """
    with SpooledTemporaryFile(IN_MEMORY) as file:
        yield Spool(file, batches)


class Spool:
    """Rows [n, D] in float32, in blocks whose size depends on D alone.

    Attributes:
        means: Of every row, [n].
    """

    def __init__(self, file: SpooledTemporaryFile[bytes], batches: Iterable[NDArray[Any]]) -> None:
        self._file, self._width = file, 1
        means = [self._keep(batch) for batch in batches]
        self.means: Rows = np.concatenate(means) if means else np.empty(0, np.float32)

    def _keep(self, batch: NDArray[Any]) -> Rows:
        rows = finite(batch).astype(np.float32)
        self._width = rows.shape[1]
        self._file.write(rows.tobytes())
        return np.asarray(rows.mean(1))

    def __len__(self) -> int:
        return len(self.means)

    def blocks(self, chosen: NDArray[np.bool_] | None = None, columns: slice = slice(None)) -> Iterator[Rows]:
        """The rows again, in their order.

        Args:
            chosen: Which ones, [n]; default: all.
            columns: Of each row.
        """
        step = max(BLOCK // (4 * self._width), 1)
        for start in range(0, len(self), step):
            self._file.seek(4 * self._width * start)
            rows = np.frombuffer(self._file.read(4 * self._width * step), np.float32).reshape(-1, self._width)
            wanted = rows[:, columns] if chosen is None else rows[chosen[start : start + step], columns]
            if len(wanted):
                yield wanted
