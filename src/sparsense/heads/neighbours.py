"""The largest inner products with a bank of rows, in pieces that fit the caches."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.errors import CalibrationError
from sparsense.graph.build import Builder

CHUNK = 8192  # rows of the bank at once: memory is N x CHUNK instead of N x bank
LEAST = 1e-12  # a row of zeros has no direction


def unit(op: Builder, rows: ir.Value) -> ir.Value:
    """Rows [N, D] of length 1."""
    length = op.Sqrt(op.ReduceSumSquare(rows, [1], keepdims=1))
    return op.Div(rows, op.Max(length, LEAST))


def unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numpy form.

    Example:
        >>> unit_rows(np.array([[3.0, 4.0]]))
        array([[0.6, 0.8]])
    """
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), LEAST))


def largest_products(op: Builder, rows: ir.Value, bank: NDArray[np.float64], k: int) -> ir.Value:
    """The k largest inner products of each row [N, D] with a bank [M, D], descending: [N, k]."""
    pieces = []
    for start in range(0, len(bank), CHUNK):
        piece = bank[start : start + CHUNK]
        products = op.MatMul(rows, np.ascontiguousarray(piece.T, np.float32))
        pieces.append(_top(op, products, min(k, len(piece))))
    return pieces[0] if len(pieces) == 1 else _top(op, op.Concat(*pieces, axis=1), k)


def _top(op: Builder, values: ir.Value, k: int) -> ir.Value:
    return op.call("TopK", values, [k], outputs=2, axis=1)[0]


def check_bank(name: str, count: int, k: int) -> None:
    """Refuse fewer rows than neighbours."""
    if count < k:
        raise CalibrationError(f"fitting head {name!r}: expected at least k = {k} inputs, found {count}", needed=k)


def nearest_row(op: Builder, rows: ir.Value, bank: NDArray[np.float64]) -> ir.Value:
    """The row of a bank [M, D] that is nearest to each row [N, D]: [N, D].

    The row itself is returned, as a distance worked out from inner products would keep few digits.
    """
    half_squares = np.float32(0.5) * np.square(bank).sum(1).astype(np.float32)
    closeness = op.Gemm(rows, np.ascontiguousarray(bank.T, np.float32), -half_squares)
    return op.Gather(bank.astype(np.float32), op.ArgMax(closeness, axis=1, keepdims=0), axis=0)


def nearest_distances(op: Builder, rows: ir.Value, bank: NDArray[np.float64], k: int) -> ir.Value:
    """Squared distance of each row [N, D] to its k-th nearest row of a bank [M, D]: [N].

    ||a - b||^2 = ||a||^2 - 2 (a b - ||b||^2 / 2): the bracket is an inner product with one more column.
    """
    widened = np.concatenate([bank, -0.5 * np.square(bank).sum(1, keepdims=True)], axis=1)
    ones = op.Add(op.Mul(op.Slice(rows, [0], [1], [1]), 0.0), 1.0)
    closest = op.Slice(largest_products(op, op.Concat(rows, ones, axis=1), widened, k), [k - 1], [k], [1])
    square = op.ReduceSumSquare(rows, [1], keepdims=0)
    return op.Sub(square, op.Mul(op.Squeeze(closest, [1]), 2.0))
