"""Inputs that show nothing: noise of the kind that a network accepts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.graph.forward import ForwardGraph
from sparsense.heads.head import Stream

WINDOW = 5  # pixels: unblurred noise is nothing but the highest frequencies


def noise_like(network: ForwardGraph, stream: Stream, count: int, seed: int) -> NDArray[Any]:
    """Blurred uniform noise for images; for rows of a table, uniform numbers within each column's range.

    Images of floating point numbers have that of each pixel instead of 0 to 255.

    Args:
        network: Tells the type and shape of its input.
        stream: Tells the ranges.
        count: How many.
        seed: Of the noise.
    """
    random = np.random.default_rng(seed)
    shape: list[int] = []
    low, high = np.inf, -np.inf
    for (batch,) in stream(network, [network.input]):
        shape = [count, *batch.shape[1:]]
        low, high = np.minimum(low, batch.min(0)), np.maximum(high, batch.max(0))
    unit = random.uniform(0, 1, shape)
    if len(shape) == 4:
        for axis in (axis for axis in range(1, 4) if shape[axis] > 4):  # the two of positions; channels are few
            unit = _blur(unit, axis)
        unit = unit.clip(0, 1)
    if network.input.dtype == ir.DataType.UINT8:
        return np.asarray(unit * 255, np.uint8)
    return np.asarray(low + unit * (np.asarray(high) - low), np.float32)


def _blur(unit: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Moving mean along one axis, stretched so that the contrast stays."""
    shifted = [np.roll(unit, step, axis) for step in range(WINDOW)]
    return np.asarray((np.mean(shifted, axis=0) - 0.5) * np.sqrt(WINDOW) + 0.5)
