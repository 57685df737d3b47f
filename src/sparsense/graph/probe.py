"""Shapes that no rule can tell are asked of the model itself: it is run on two and on three samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.graph.run import Session


def learn_shapes(model: ir.Model) -> None:
    """Fill in types and shapes behind operators of other domains, which no inference knows, in place.

    A size that is the number of samples becomes N. Models with free heights or widths stay as they are: one run would
    not tell which sizes depend on them.

    Args:
        model: Simplified; one float32 input with a free batch axis.
    """
    given = model.graph.inputs[0]
    sizes: list[Any] = list(given.shape or [])[1:]
    unknown = [value for node in model.graph for value in node.outputs if value.shape is None and value.name]
    unknown = [value for value in unknown if value.type is None or isinstance(value.type, ir.TensorType)]
    if not unknown or given.dtype != ir.DataType.FLOAT or not all(isinstance(size, int) for size in sizes):
        return
    session, random = Session(model, unknown), np.random.default_rng(0)
    two, three = (session(random.uniform(size=(n, *sizes)).astype(np.float32)) for n in (2, 3))
    for value, small, large in zip(unknown, two, three, strict=True):
        _describe(value, small, large)


def _describe(value: ir.Value, small: NDArray[Any], large: NDArray[Any]) -> None:
    if not isinstance(small, np.ndarray) or small.ndim != large.ndim:
        return
    pairs = zip(small.shape, large.shape, strict=True)
    sizes: list[Any] = [a if a == b else "N" if (a, b) == (2, 3) else None for a, b in pairs]
    value.shape, value.dtype = ir.Shape(sizes), ir.DataType.from_numpy(small.dtype)
