"""Matrix products."""

from __future__ import annotations

from typing import Any

from sparsense.autodiff.rule import Call, vjp
from sparsense.autodiff.shapes import rank
from sparsense.graph.build import Builder


def _swap(op: Builder, value: Any) -> Any:
    """Exchange the last two axes; constants are exchanged once, here."""
    if value.const_value is not None:
        return op.constant(value.const_value.numpy().swapaxes(-1, -2), f"{value.name}_transposed")
    axes = list(range(rank(value)))
    return op.Transpose(value, perm=[*axes[:-2], axes[-1], axes[-2]])


# y = A B, batched and broadcast over the leading axes; vectors are refused by the shape of their gradients being asked.
def _matmul_left(op: Builder, d: Any, c: Call) -> Any:
    if rank(c.x[1]) == 1:  # [.., m, k] [k] -> [.., m]
        return op.Mul(op.Unsqueeze(d, [-1]), c.x[1])
    if rank(c.x[0]) == 1:  # [k] [.., k, n] -> [.., n]
        return op.Squeeze(op.MatMul(op.Unsqueeze(d, [-2]), _swap(op, c.x[1])), [-2])
    return op.MatMul(d, _swap(op, c.x[1]))


def _matmul_right(op: Builder, d: Any, c: Call) -> Any:
    if rank(c.x[1]) == 1:  # sum the rows of A, weighted by d
        return op.ReduceSum(op.Mul(op.Unsqueeze(d, [-1]), c.x[0]), list(range(rank(c.x[0]) - 1)), keepdims=0)
    if rank(c.x[0]) == 1:
        return op.Mul(op.Unsqueeze(c.x[0], [-1]), op.Unsqueeze(d, [-2]))
    return op.MatMul(_swap(op, c.x[0]), d)


vjp("MatMul", _matmul_left, _matmul_right)


# y = alpha A' B' + beta C, where ' transposes when transA / transB is 1
def _gemm_a(op: Builder, d: Any, c: Call) -> Any:
    alpha, trans_a, trans_b = c.attribute("alpha", 1.0), c.attribute("transA", 0), c.attribute("transB", 0)
    if trans_a:  # A' = A^T, so dA = B' d^T
        return op.Gemm(c.x[1], d, alpha=alpha, transA=trans_b, transB=1)
    return op.Gemm(d, c.x[1], alpha=alpha, transB=1 - trans_b)


def _gemm_b(op: Builder, d: Any, c: Call) -> Any:
    alpha, trans_a, trans_b = c.attribute("alpha", 1.0), c.attribute("transA", 0), c.attribute("transB", 0)
    if trans_b:
        return op.Gemm(d, c.x[0], alpha=alpha, transA=1, transB=trans_a)
    return op.Gemm(c.x[0], d, alpha=alpha, transA=1 - trans_a)


def _gemm_c(op: Builder, d: Any, c: Call) -> Any:
    beta = c.attribute("beta", 1.0)
    return d if beta == 1.0 else op.Mul(d, beta)


vjp("Gemm", _gemm_a, _gemm_b, _gemm_c)
