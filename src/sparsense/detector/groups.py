"""Groups: B consecutive inputs that are known to belong together, judged as one."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsense.errors import InputError

How = Literal["mean", "max"]


def group_inputs(inputs: NDArray[Any], size: int) -> NDArray[Any]:
    """Inputs `[n, ...]` as a detector of groups takes them: `size` consecutive ones each, `[n // size, size, ...]`.

    Calibrate with groups that come together as those of later do: consecutive images of one scene are no random ones.

    Args:
        inputs: Those left over at the end, fewer than `size`, are left out.
        size: Inputs per group, at least 1 and at most n; of 1 they stay as they are.

    Raises:
        InputError: A size that does not fit.

    Example:
        >>> group_inputs(np.arange(5), 2).tolist()
        [[0, 1], [2, 3]]
    """
    if not 1 <= size <= len(inputs):
        raise InputError(f"grouping {len(inputs)} inputs: expected groups of 1 to {len(inputs)}, found {size}")
    if size == 1:
        return inputs
    return inputs[: len(inputs) // size * size].reshape(-1, size, *inputs.shape[1:])


def single_inputs(inputs: NDArray[Any], size: int) -> NDArray[Any]:
    """The inverse: the inputs in groups of `size`, one after the other."""
    return inputs if size == 1 else inputs.reshape(-1, *inputs.shape[2:])


def group_scores(scores: ArrayLike, size: int, *, how: How = "mean") -> NDArray[np.float64]:
    """One score per group of `size` consecutive inputs.

    Calibrate with groups of the same size of in-distribution inputs: `calibrate(group_scores(held_out, size), rate)`.
    A mean over more inputs separates better, and says less about which of them is anomalous.

    Args:
        scores: `[n]`, higher = more anomalous; inputs left over at the end, fewer than `size`, are not judged.
        size: Inputs per group, at least 1 and at most n.
        how: `mean`, or `max` where one anomaly makes the group anomalous.

    Returns:
        `[n // size]`, higher = more anomalous.

    Raises:
        InputError: Another shape, NaN, or a size that does not fit.

    Example:
        >>> group_scores([1, 3, 2, 8, 5], 2).tolist()
        [2.0, 5.0]
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise InputError(f"grouping scores: expected numbers [n], found shape {list(values.shape)} or NaN")
    if size != int(size) or not 1 <= size <= len(values):
        raise InputError(f"grouping {len(values)} scores: expected groups of 1 to {len(values)} inputs, found {size}")
    if how not in ("mean", "max"):
        raise InputError(f"grouping scores: expected 'mean' or 'max', found {how!r}")
    rows = values[: len(values) // size * size].reshape(-1, size)
    return np.asarray(rows.mean(1) if how == "mean" else rows.max(1))
