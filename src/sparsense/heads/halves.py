"""Parts of the fitting data that do not depend on its order."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def parts(means: NDArray[Any], count: int) -> NDArray[Any]:
    """A part 0 .. count - 1 for each row, dealt out along the sorted means of the rows.

    Each part is then like the whole, and the same for any order in which the rows come.

    Args:
        means: Of every row, [n].
        count: How many parts.

    Example:
        >>> parts(np.array([3.0, 1.0, 2.0, 0.0]), 2)
        array([1, 1, 0, 0], dtype=uint8)
    """
    order = np.argsort(means, kind="stable")
    found = np.empty(len(means), np.min_scalar_type(count))  # small: all rows have one
    found[order] = np.arange(len(means)) % count
    return found
