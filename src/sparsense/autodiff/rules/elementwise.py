"""Operators that act on each element alone. Notation: d = gradient of the output, c.x = inputs, c.y = outputs."""

from __future__ import annotations

from typing import Any

from sparsense.autodiff.rule import Call, no_gradient, variadic, vjp
from sparsense.graph.build import Builder

no_gradient(
    "ArgMax", "ArgMin", "Ceil", "ConstantOfShape", "Equal", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less",
    "LessOrEqual", "Not", "OneHot", "Range", "Round", "Shape", "Sign", "Size",
)  # fmt: skip

vjp("Identity", lambda op, d, c: d)
vjp("Dropout", lambda op, d, c: d)  # inference: the identity
vjp("Add", lambda op, d, c: d, lambda op, d, c: d)
vjp("Sub", lambda op, d, c: d, lambda op, d, c: op.Neg(d))
vjp("Mul", lambda op, d, c: op.Mul(d, c.x[1]), lambda op, d, c: op.Mul(d, c.x[0]))
vjp(
    "Div",
    lambda op, d, c: op.Div(d, c.x[1]),
    lambda op, d, c: op.Neg(op.Mul(d, op.Div(c.y[0], c.x[1]))),
)
variadic("Sum", lambda op, d, c, index: d)
vjp("Neg", lambda op, d, c: op.Neg(d))
vjp("Abs", lambda op, d, c: op.Mul(d, op.Sign(c.x[0])))
vjp("Sqrt", lambda op, d, c: op.Div(op.Mul(d, 0.5), c.y[0]))
vjp("Reciprocal", lambda op, d, c: op.Neg(op.Mul(d, op.Mul(c.y[0], c.y[0]))))
vjp("Exp", lambda op, d, c: op.Mul(d, c.y[0]))
vjp("Log", lambda op, d, c: op.Div(d, c.x[0]))
vjp("Sigmoid", lambda op, d, c: op.Mul(d, op.Mul(c.y[0], op.Sub(1.0, c.y[0]))))
vjp("Tanh", lambda op, d, c: op.Mul(d, op.Sub(1.0, op.Mul(c.y[0], c.y[0]))))
vjp("Relu", lambda op, d, c: op.Mul(d, op.Sign(c.y[0])))  # the output is >= 0: its sign is the mask


def _clip(op: Builder, d: Any, c: Call) -> Any:
    """Pass where the input lies inside; the borders themselves pass, as in torch."""
    like = c.x[0].dtype
    if c.input(1) is not None:
        d = op.Mul(d, op.Cast(op.GreaterOrEqual(c.x[0], c.x[1]), to=int(like)))
    if c.input(2) is not None:
        d = op.Mul(d, op.Cast(op.LessOrEqual(c.x[0], c.x[2]), to=int(like)))
    return d


vjp("Clip", _clip)
vjp("Cast", lambda op, d, c: op.Cast(d, to=int(c.x[0].dtype)))
vjp("Where", None, lambda op, d, c: op.Where(c.x[0], d, 0.0), lambda op, d, c: op.Where(c.x[0], 0.0, d))
