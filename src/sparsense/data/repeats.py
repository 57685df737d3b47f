"""Rows of a table that repeat earlier ones, by what they mean and not by how they are written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsense.data.columns import Columns, is_numeric, numbers, words
from sparsense.data.splits import first_of_equals


def distinct_rows(columns: Columns) -> NDArray[np.int64]:
    """The ascending indices of the rows that no earlier row equals, before any of them has taught an encoding.

    Numbers are the same where float32 cannot tell them apart, words without the blanks around them; gaps are all the
    same.

    Args:
        columns: Of the table, at least one.

    Raises:
        InputError: A number that is infinite in float32; with its row.

    Example:
        >>> distinct_rows({"size": ["3.0", "3.00", "3"], "kind": ["a", " a", "b"]})
        array([0, 2])
    """
    return first_of_equals(np.stack([_places(name, values) for name, values in columns.items()], axis=1))


def _places(name: str, values: Sequence[str | None]) -> NDArray[np.float64]:
    """A number per value, the same for the same values."""
    if is_numeric(values):
        return numbers(values, f"column {name!r}").astype(np.float32).astype(np.float64)
    return np.unique(words(values), return_inverse=True)[1].astype(np.float64)
