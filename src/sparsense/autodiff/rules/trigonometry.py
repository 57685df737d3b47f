"""Trigonometric and hyperbolic functions and their inverses, and the error function."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

from sparsense.autodiff.rule import vjp
from sparsense.graph.build import Builder


def _square(op: Builder, x: Any) -> Any:
    return op.Mul(x, x)


def gauss(op: Builder, x: Any) -> Any:
    """exp(-x^2)."""
    return op.Exp(op.Neg(_square(op, x)))


vjp("Sin", lambda op, d, c: op.Mul(d, op.Cos(c.x[0])))
vjp("Cos", lambda op, d, c: op.Neg(op.Mul(d, op.Sin(c.x[0]))))
vjp("Tan", lambda op, d, c: op.Mul(d, op.Add(_square(op, c.y[0]), 1.0)))
vjp("Asin", lambda op, d, c: op.Div(d, op.Sqrt(op.Sub(1.0, _square(op, c.x[0])))))
vjp("Acos", lambda op, d, c: op.Neg(op.Div(d, op.Sqrt(op.Sub(1.0, _square(op, c.x[0]))))))
vjp("Atan", lambda op, d, c: op.Div(d, op.Add(_square(op, c.x[0]), 1.0)))
vjp("Sinh", lambda op, d, c: op.Mul(d, op.Cosh(c.x[0])))
vjp("Cosh", lambda op, d, c: op.Mul(d, op.Sinh(c.x[0])))
vjp("Asinh", lambda op, d, c: op.Div(d, op.Sqrt(op.Add(_square(op, c.x[0]), 1.0))))
vjp("Acosh", lambda op, d, c: op.Div(d, op.Sqrt(op.Sub(_square(op, c.x[0]), 1.0))))
vjp("Atanh", lambda op, d, c: op.Div(d, op.Sub(1.0, _square(op, c.x[0]))))
vjp("Erf", lambda op, d, c: op.Mul(d, op.Mul(gauss(op, c.x[0]), 2 / sqrt(pi))))
