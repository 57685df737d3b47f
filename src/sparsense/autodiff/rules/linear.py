"""Matrix products: MatMul, Gemm, Einsum."""

from __future__ import annotations

from typing import Any

from sparsense.autodiff.rule import Call, variadic, vjp
from sparsense.autodiff.shapes import dims, rank
from sparsense.graph.build import Builder


def swap(op: Builder, value: Any) -> Any:
    """Exchange the last two axes; of a constant too by a node, which runtimes fold, so that it is stored once."""
    axes = list(range(rank(value)))
    return op.Transpose(value, perm=[*axes[:-2], axes[-1], axes[-2]])


# y = A B, batched and broadcast over the leading axes; a vector counts as a row on the left, a column on the right
def _matmul_left(op: Builder, d: Any, c: Call) -> Any:
    a, b = c.x
    if rank(b) == 1:  # [.., m, k] [k] -> [.., m]
        return op.Mul(op.Unsqueeze(d, [-1]), b)
    if rank(a) == 1:  # [k] [.., k, n] -> [.., n]; the sum over .. is left to the walk
        return op.Squeeze(op.MatMul(op.Unsqueeze(d, [-2]), swap(op, b)), [-2])
    return _weight_first(op, d, b) if _is_square_weight(b) else op.MatMul(d, swap(op, b))


def _is_square_weight(value: Any) -> bool:
    return rank(value) == 2 and value.const_value is not None and dims(value)[0] == dims(value)[1]


def _weight_first(op: Builder, d: Any, weight: Any) -> Any:
    """D W^T as (W d^T)^T: where the weight stands on the right, OpenVINO 2026.4 takes it for the forward one."""
    return swap(op, op.MatMul(weight, swap(op, d)))


def _matmul_right(op: Builder, d: Any, c: Call) -> Any:
    a, b = c.x
    if rank(b) == 1:
        return op.Mul(a, op.Unsqueeze(d, [-1]) if rank(a) > 1 else d)
    if rank(a) == 1:
        return op.Mul(op.Unsqueeze(a, [-1]), op.Unsqueeze(d, [-2]))
    return op.MatMul(swap(op, a), d)


vjp("MatMul", _matmul_left, _matmul_right)


# y = alpha A' B' + beta C, where ' transposes when transA / transB is 1
def _gemm_a(op: Builder, d: Any, c: Call) -> Any:
    alpha, trans_a, trans_b = c.attribute("alpha", 1.0), c.attribute("transA", 0), c.attribute("transB", 0)
    if trans_a:  # A' = A^T, so dA = B' d^T
        return op.Gemm(c.x[1], d, alpha=alpha, transA=trans_b, transB=1)
    if _is_square_weight(c.x[1]):
        product = _weight_first(op, d, swap(op, c.x[1]) if trans_b else c.x[1])
        return product if alpha == 1 else op.Mul(product, alpha)
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


# Einsum: the gradient of an operand is the einsum of the output's gradient with the other operands
def _einsum(op: Builder, d: Any, c: Call, index: int) -> Any:
    terms, out = einsum_terms(c)
    own, others = terms[index], [*terms[:index], *terms[index + 1 :]]
    if len(set(own)) < len(own):
        raise c.refuse(f"takes a diagonal ({c.attribute('equation')!r}), for which it has no rule")
    present = {letter for term in [out, *others] for letter in term}
    kept = "".join(letter for letter in own if letter in present)
    operands = [value for position, value in enumerate(c.x) if position != index]
    product = op.Einsum(d, *operands, equation=f"{','.join([out, *others])}->{kept}")
    summed = [axis for axis, letter in enumerate(own) if letter not in present]
    if not summed:
        return product
    return op.Mul(op.Unsqueeze(product, summed), op.Add(op.Mul(c.x[index], 0.0), 1.0))


def einsum_terms(c: Call) -> tuple[list[str], str]:
    """The letters of each operand and of the result, with `...` spelt out in capital letters."""
    equation = c.attribute("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow:  # the implicit form: letters that occur once, in alphabetical order
        letters = sorted(x for x in set(left) - set(",.") if left.count(x) == 1)
        right = ("..." if "..." in left else "") + "".join(letters)
    free = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in equation]
    spans = [rank(x) - len(term.replace("...", "")) for x, term in zip(c.x, terms, strict=True) if "..." in term]
    widest = max(spans, default=0)
    if len(set(spans)) > 1:
        raise c.refuse(f"broadcasts '...' over different ranks ({equation!r}), for which it has no rule")
    dots = "".join(free[:widest])
    return [term.replace("...", dots) for term in terms], right.replace("...", dots)


variadic("Einsum", _einsum)
