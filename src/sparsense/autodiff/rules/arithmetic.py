"""Arithmetic on each element alone. Notation of all rules: d = gradient of the output, c.x = inputs, c.y = outputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsense.autodiff.masks import above, below
from sparsense.autodiff.rule import Call, no_gradient, variadic, vjp
from sparsense.autodiff.shapes import as_mask, dtype_of
from sparsense.graph.build import Builder

TINY = float(np.finfo(np.float32).tiny)  # a root is steep at 0, but what nothing asks of it there is 0, not 0 / 0

no_gradient("Ceil", "EyeLike", "Floor", "Hardmax", "RandomNormalLike", "RandomUniformLike", "Round", "Sign")

vjp("Identity", lambda op, d, c: d)
vjp("Add", lambda op, d, c: d, lambda op, d, c: d)
vjp("Sub", lambda op, d, c: d, lambda op, d, c: op.Neg(d))
vjp("Mul", lambda op, d, c: op.Mul(d, c.x[1]), lambda op, d, c: op.Mul(d, c.x[0]))
vjp("Div", lambda op, d, c: op.Div(d, c.x[1]), lambda op, d, c: op.Neg(op.Mul(d, op.Div(c.y[0], c.x[1]))))
vjp("Neg", lambda op, d, c: op.Neg(d))
vjp("Abs", lambda op, d, c: op.Mul(d, op.Sign(c.x[0])))
vjp("Sqrt", lambda op, d, c: op.Div(op.Mul(d, 0.5), op.Max(c.y[0], TINY)))
vjp("Reciprocal", lambda op, d, c: op.Neg(op.Mul(d, op.Mul(c.y[0], c.y[0]))))
vjp("Exp", lambda op, d, c: op.Mul(d, c.y[0]))
vjp("Log", lambda op, d, c: op.Div(d, c.x[0]))
vjp("Cast", lambda op, d, c: op.Cast(d, to=int(c.x[0].dtype)))
vjp(
    "CastLike", lambda op, d, c: op.Cast(d, to=int(c.x[0].dtype)), lambda op, d, c: None
)  # of the second only the type counts
vjp("Where", None, lambda op, d, c: op.Where(c.x[0], d, 0.0), lambda op, d, c: op.Where(c.x[0], 0.0, d))

variadic("Sum", lambda op, d, c, index: d)
variadic("Mean", lambda op, d, c, index: op.Mul(d, 1 / len(c.x)))


def _truncated_quotient(op: Builder, c: Call) -> Any:
    quotient = op.Div(c.x[0], c.x[1])
    return op.Mul(op.Sign(quotient), op.Floor(op.Abs(quotient)))


vjp("Mod", lambda op, d, c: d, lambda op, d, c: op.Neg(op.Mul(d, _truncated_quotient(op, c))))  # floats: fmod


def _power_base(op: Builder, d: Any, c: Call) -> Any:
    """The derivative is a x^(a - 1); for a constant a the coefficient and the exponent are worked out here."""
    base, exponent = c.x
    if exponent.const_value is None:
        like = op.Cast(exponent, to=int(base.dtype))
        return op.Mul(d, op.Mul(like, op.Pow(base, op.Sub(like, 1.0))))
    a = exponent.const_value.numpy().astype(dtype_of(base))
    if (a == 2).all():
        return op.Mul(d, op.Mul(base, 2.0))
    lower = np.where(a == 0, 1, a - 1)  # x^0 has derivative 0 everywhere, also at 0
    base = op.Max(base, TINY) if ((a > 0) & (a < 1)).all() else base  # a root: no number below 0
    return op.Mul(d, op.Mul(op.Pow(base, lower), a))


def _power_exponent(op: Builder, d: Any, c: Call) -> Any:
    """The derivative is y log(x), and 0 at x = 0."""
    zero = op.Equal(c.x[0], 0.0)
    return op.Mul(d, op.Mul(c.y[0], op.Log(op.Where(zero, 1.0, c.x[0]))))


vjp("Pow", _power_base, _power_exponent)


def _extreme(op: Builder, d: Any, c: Call, index: int) -> Any:
    """Max, Min: to the operand that was chosen; ties share."""
    hits = [as_mask(op, op.Equal(value, c.y[0]), c.y[0]) for value in c.x]
    return op.Mul(hits[index], op.Div(d, op.Sum(*hits)))


variadic("Max", _extreme)
variadic("Min", _extreme)


def _clip(op: Builder, d: Any, c: Call) -> Any:
    """Pass where the output lies strictly between the bounds, as in torch's ReLU6; its clamp passes at a bound, too."""
    for bound, inside, comparison in ((c.input(1), above, op.Greater), (c.input(2), below, op.Less)):
        if bound is not None and bound.const_value is not None:
            d = op.Mul(d, inside(op, c.y[0], bound.const_value.numpy().item()))
        elif bound is not None:
            d = op.Mul(d, as_mask(op, comparison(c.y[0], bound), d))
    return d


vjp("Clip", _clip)


def _dropout(op: Builder, d: Any, c: Call) -> Any:
    """Inference: the identity."""
    training = c.constant(2)
    if training is not None and training.any():
        raise c.refuse("is in training mode, so its output is random; export the network in eval mode")
    return d


vjp("Dropout", _dropout)
