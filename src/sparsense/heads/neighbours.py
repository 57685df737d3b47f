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


def largest_products(
    op: Builder, rows: ir.Value, bank: NDArray[np.float64], k: int, *, added: NDArray[np.float64] | None = None
) -> ir.Value:
    """The k largest inner products of each row [N, D] with a bank [M, D], descending: [N, k].

    Args:
        op: Builder.
        rows: [N, D].
        bank: [M, D].
        k: How many, at most M.
        added: To the products with each row of the bank, [M].
    """
    pieces = []
    for start in range(0, len(bank), CHUNK):
        own = slice(start, start + CHUNK)
        piece = np.ascontiguousarray(bank[own].T, np.float32)
        products = op.MatMul(rows, piece) if added is None else op.Gemm(rows, piece, added[own].astype(np.float32))
        pieces.append(_top(op, products, min(k, piece.shape[1])))
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

    ||a - b||^2 = ||a||^2 - (2 a b - ||b||^2), and the bracket is one product with something added.
    """
    nearest = largest_products(op, rows, 2 * bank, k, added=-np.square(bank).sum(1))
    closest = op.Gather(nearest, np.asarray(k - 1), axis=1)
    return op.Sub(op.ReduceSumSquare(rows, [1], keepdims=0), closest)
