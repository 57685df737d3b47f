"""Where the samples lie in a layer's activations: asked of the network itself, where shapes do not tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff.shapes import dims, rank
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.graph.run import Session

Order = Literal["first", "outer", "inner", "second", "mixed"]
"""first: [N, ...]; outer: [N * k, ...]; inner: [k * N, ...]; second: [k, N, ...]; mixed: none of these."""

GUESS = 32  # for a height or width that is free


def sample_orders(network: ForwardGraph, values: Sequence[ir.Value]) -> list[Order]:
    """How the samples lie in each value.

    Where the first axis is the batch axis of the network's input, that is all. Elsewhere (windows, frames, time-major
    tokens) the network is run on two samples of which the second is then changed: what changes with it belongs to it.
    """
    batch = None if network.target.shape is None else network.target.shape[0]
    doubtful = [value for value in values if dims(value)[0] != batch]
    found = dict(zip(doubtful, _probe(network, doubtful), strict=True)) if doubtful else {}
    return [found.get(value, "first") for value in values]


def _probe(network: ForwardGraph, values: Sequence[ir.Value]) -> list[Order]:
    random = np.random.default_rng(0)
    before = _inputs(network, random)
    after = np.concatenate([before[:1], _inputs(network, random)[1:]])
    session = Session(network.model, values)
    return [_order(a, b) for a, b in zip(session(before), session(after), strict=True)]


def _inputs(network: ForwardGraph, random: np.random.Generator) -> NDArray[Any]:
    shape = [2, *(size if isinstance(size, int) else GUESS for size in dims(network.input)[1:])]
    if network.input.dtype == ir.DataType.UINT8:
        return random.integers(0, 256, shape, np.uint8)
    return random.standard_normal(shape).astype(np.float32)


def _order(before: NDArray[Any], after: NDArray[Any]) -> Order:
    changed: Any = before != after
    rows = changed.reshape(len(changed), -1).any(1)
    if len(rows) % 2 == 0 and not rows[: len(rows) // 2].any():
        return "first" if len(rows) == 2 else "outer"
    if len(rows) % 2 == 0 and not rows[::2].any():
        return "inner"
    if changed.ndim > 2 and changed.shape[1] == 2 and not changed[:, 0].any():
        return "second"
    return "mixed"


def samples_first(op: Builder, value: ir.Value, order: Order) -> ir.Value:
    """[k, N, ...] -> [N, k, ...]; other orders stay as they are."""
    if order != "second":
        return value
    return op.Transpose(value, perm=[1, 0, *range(2, rank(value))])


def sum_parts(op: Builder, value: ir.Value, order: Order) -> ir.Value:
    """Sum over the k parts (windows, frames) of each sample, [N, ...]."""
    if order not in ("outer", "inner"):
        return value
    batch, parts = op.Shape(op.graph.inputs[0], end=1), np.asarray([-1])
    leading = (batch, parts) if order == "outer" else (parts, batch)
    split = op.Reshape(value, op.Concat(*leading, op.Shape(value, start=1), axis=0))
    return op.ReduceSum(split, [1 if order == "outer" else 0], keepdims=0)
