"""Scaled dot-product attention as one operator, and rotary position embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.rule import Call, vjp
from sparsense.autodiff.rules.linear import swap
from sparsense.autodiff.shapes import all_known, dims, dtype_of, rank
from sparsense.graph.build import Builder

HEADS_FIRST = [0, 2, 1, 3]


class Heads:
    """The operands with heads apart, [N, heads, T, D]; where several share a key, [N, shared, heads / shared, T, D]."""

    def __init__(self, op: Builder, c: Call) -> None:
        _check(c)
        self.flat = rank(c.x[0]) == 3  # [N, T, heads * D]
        counts = [c.attribute(name) if self.flat else dims(x)[1] for name, x in zip(_COUNTS, c.x[:3], strict=True)]
        self.count, self.shared = counts[:2]
        if not all_known([*counts, *(dims(x)[-1] for x in c.x[:3])]):
            raise c.refuse("has heads of a free number or size; export it with fixed ones")
        self.q, self.k, self.v = (self.apart(op, x, n) for x, n in zip(c.x[:3], counts, strict=True))
        size = dims(self.q)[-1]
        self.scale = float(c.attribute("scale") or size**-0.5)

    def apart(self, op: Builder, value: ir.Value, count: int) -> ir.Value:
        """From the operator's own layout."""
        if self.flat:
            value = op.Transpose(op.Reshape(value, [0, 0, count, -1]), perm=HEADS_FIRST)
        if self.count == self.shared:
            return value
        return op.Reshape(value, [0, self.shared, count // self.shared, -1, dims(value)[-1]])

    def together(self, op: Builder, value: ir.Value, count: int) -> ir.Value:
        """Back into the operator's own layout; what several heads gave to one key is summed."""
        if self.count != self.shared:
            summed = op.ReduceSum(value, [2], keepdims=1) if count == self.shared else value
            value = op.Reshape(summed, [0, count, -1, dims(value)[-1]])
        return op.Reshape(op.Transpose(value, perm=HEADS_FIRST), [0, 0, -1]) if self.flat else value


_COUNTS = ("q_num_heads", "kv_num_heads", "kv_num_heads")


def _check(c: Call) -> None:
    if any(c.input(index) is not None for index in (4, 5, 6)):
        raise c.refuse("reads a cache of keys and values, for which it has no rule; export it without a cache")
    if c.attribute("softcap", 0.0):
        raise c.refuse("caps its scores (softcap), for which it has no rule")
    if max(c.attribute("left_window_size", -1), c.attribute("right_window_size", -1)) >= 0:
        raise c.refuse("attends within a window, for which it has no rule; export it with a mask")


def _shares(op: Builder, c: Call, heads: Heads) -> ir.Value:
    """What every query takes of every value: softmax(scale Q K^T + mask)."""
    scores = op.Mul(op.MatMul(heads.q, swap(op, heads.k)), heads.scale)
    kind = dtype_of(scores)
    nothing, lowest = np.zeros((), kind), np.asarray(np.finfo(kind).min, kind)
    mask = c.input(3)
    if mask is not None:
        mask = _spread_mask(op, c, heads)
        scores = op.Add(scores, op.Where(mask, nothing, lowest) if mask.dtype == ir.DataType.BOOL else mask)
    if c.attribute("is_causal", 0):
        ones = op.Expand(np.ones((1, 1), np.int64), op.Shape(scores, start=-2))
        scores = op.Where(op.Cast(op.Trilu(ones, upper=0), to=int(ir.DataType.BOOL)), scores, lowest)
    return op.Softmax(scores, axis=-1)


def _spread_mask(op: Builder, c: Call, heads: Heads) -> ir.Value:
    """The mask with the axes of the scores."""
    mask: ir.Value = c.x[3]
    sizes = dims(mask)
    if isinstance(sizes[-1], int) and isinstance(dims(heads.k)[-2], int) and sizes[-1] != dims(heads.k)[-2]:
        raise c.refuse("has a mask shorter than its keys, for which it has no rule")
    if heads.count == heads.shared or len(sizes) < 3:
        return mask
    if sizes[-3] == 1:
        return op.Unsqueeze(mask, [len(sizes) - 2])
    raise c.refuse("has heads that share keys and a mask for each head, for which it has no rule")


def _scores_back(op: Builder, d: ir.Value, c: Call, heads: Heads) -> ir.Value:
    """The gradient of the scores: p (g - sum(g p)), g that of the shares p."""
    shares = _shares(op, c, heads)
    arrived = op.MatMul(heads.apart(op, d, heads.count), swap(op, heads.v))
    return op.Mul(shares, op.Sub(arrived, op.ReduceSum(op.Mul(arrived, shares), [-1], keepdims=1)))


def _query(op: Builder, d: Any, c: Call) -> Any:
    heads = Heads(op, c)
    product = op.MatMul(_scores_back(op, d, c, heads), heads.k)
    return heads.together(op, op.Mul(product, heads.scale), heads.count)


def _key(op: Builder, d: Any, c: Call) -> Any:
    heads = Heads(op, c)
    product = op.MatMul(swap(op, _scores_back(op, d, c, heads)), heads.q)
    return heads.together(op, op.Mul(product, heads.scale), heads.shared)


def _value(op: Builder, d: Any, c: Call) -> Any:
    heads = Heads(op, c)
    product = op.MatMul(swap(op, _shares(op, c, heads)), heads.apart(op, d, heads.count))
    return heads.together(op, product, heads.shared)


def _mask(op: Builder, d: Any, c: Call) -> Any:
    heads = Heads(op, c)
    back = _scores_back(op, d, c, heads)
    return back if heads.count == heads.shared else op.ReduceSum(back, [2], keepdims=0)


vjp("Attention", _query, _key, _value, _mask)


def _rotary(op: Builder, d: Any, c: Call) -> Any:
    """The rotation back."""
    return op.RotaryEmbedding(d, c.x[1], op.Neg(c.x[2]), c.input(3), **c.attributes())


vjp("RotaryEmbedding", _rotary)
