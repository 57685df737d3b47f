"""Cases of matrix products."""

from __future__ import annotations

import numpy as np
import torch

from rule_cases.case import Case, Draw, case


@case("MatMul")
def matmul(draw: Draw) -> Case:
    """Matrices, batches, broadcast batches, and vectors on either side."""
    m, k, n, b, a = (draw.int(1, 4) for _ in range(5))
    draw.free = False
    left, right = draw.choose(
        ((m, k), (k, n)), ((b, m, k), (k, n)), ((m, k), (b, k, n)), ((b, m, k), (b, k, n)),
        ((a, 1, m, k), (b, k, n)), ((k,), (k,)), ((k,), (k, n)), ((m, k), (k,)), ((b, m, k), (k,)),
        ((k,), (b, k, n)), ((a, b, m, k), (a, 1, k, n)),
    )  # fmt: skip
    return Case([draw.array(*left), draw.array(*right)], lambda op, x, y: op.MatMul(x, y), torch.matmul)


@case("MatMul")
def matmul_constant(draw: Draw) -> Case:
    """A constant on either side, the other with a free axis."""
    weight, left = draw.array(3, 3), draw.choose(True, False)
    w = torch.tensor(weight)
    return Case(
        [draw.array(draw.int(1, 3), draw.int(1, 3), 3, 3)],
        lambda op, x: op.MatMul(weight, x) if left else op.MatMul(x, weight),
        lambda x: w @ x if left else x @ w,
    )


@case("Gemm")
def gemm(draw: Draw) -> Case:
    m, k, n = (draw.int(1, 4) for _ in range(3))
    draw.free = False
    trans_a, trans_b = draw.int(0, 1), draw.int(0, 1)
    alpha, beta = draw.choose((1.0, 1.0), (0.5, 2.0))
    bias = draw.choose((m, n), (n,), (1, n), (m, 1), (), None)
    inputs = [draw.array(*((k, m) if trans_a else (m, k))), draw.array(*((n, k) if trans_b else (k, n)))]
    inputs += [] if bias is None else [draw.array(*bias)]

    def function(a, b, c=None):
        product = alpha * (a.T if trans_a else a) @ (b.T if trans_b else b)
        return product if c is None else product + beta * c

    attributes = {"transA": trans_a, "transB": trans_b, "alpha": alpha, "beta": beta}
    return Case(inputs, lambda op, *xs: op.Gemm(*xs, **attributes), function)


@case("Einsum")
def einsum(draw: Draw) -> Case:
    equation, *shapes = draw.choose(
        ("bij,bjk->bik", (2, 3, 4), (2, 4, 2)), ("ij,jk", (3, 4), (4, 2)), ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 2)),
        ("bhid,bhjd->bhij", (1, 2, 3, 2), (1, 2, 4, 2)), ("i,j->ij", (3,), (2,)), ("ij->ji", (2, 3)), ("ij->i", (2, 3)),
        ("ij->", (2, 3)), ("ij,ij->i", (2, 3), (2, 3)), ("ij,j,kj->ik", (2, 3), (3,), (2, 3)),
        ("bi...->b...", (2, 3, 2)), ("ij,kl->ik", (2, 3), (2, 4)),
    )  # fmt: skip
    draw.free = False
    inputs = [draw.array(*shape) for shape in shapes]
    return Case(inputs, lambda op, *xs: op.Einsum(*xs, equation=equation), lambda *xs: torch.einsum(equation, *xs))


@case("MatMul")
def powers_share_a_value(draw: Draw) -> Case:
    """The same value on both sides: both gradients arrive and are added."""
    size = draw.int(1, 4)
    return Case([draw.array(2, size, size)], lambda op, x: op.MatMul(x, x), lambda x: x @ x + np.float64(0))
