"""Activation functions. At their kinks they follow torch: ReLU'(0) = 0."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.rule import Call, vjp
from sparsense.autodiff.rules.trigonometry import gauss
from sparsense.autodiff.shapes import as_mask, dtype_of
from sparsense.graph.build import Builder


def _one_minus(op: Builder, y: Any) -> Any:
    return op.Sub(1.0, y)


def _slope_below(op: Builder, d: Any, c: Call, slope: Any) -> Any:
    """1 above zero, the given slope (a number or a value) at and below zero."""
    one = np.ones((), dtype_of(c.x[0]))
    return op.Mul(d, op.Where(op.Greater(c.x[0], 0.0), one, slope * one if isinstance(slope, float) else slope))


vjp("Relu", lambda op, d, c: op.Mul(d, op.Sign(c.y[0])))  # the output is >= 0: its sign is the mask
vjp("LeakyRelu", lambda op, d, c: _slope_below(op, d, c, c.attribute("alpha", 0.01)))
vjp(
    "PRelu",
    lambda op, d, c: _slope_below(op, d, c, c.x[1]),
    lambda op, d, c: op.Mul(d, op.Min(c.x[0], 0.0)),
)
vjp("ThresholdedRelu", lambda op, d, c: op.Mul(d, _above(op, c.x[0], c.attribute("alpha", 1.0))))
vjp("Shrink", lambda op, d, c: op.Mul(d, _above(op, op.Abs(c.x[0]), c.attribute("lambd", 0.5))))


def _above(op: Builder, x: Any, border: float) -> Any:
    return as_mask(op, op.Greater(x, border), x)


# alpha (e^x - 1) below zero: the derivative is alpha e^x = y + alpha
vjp("Elu", lambda op, d, c: _slope_below(op, d, c, op.Add(c.y[0], c.attribute("alpha", 1.0))))
# alpha (e^(x / alpha) - 1): the derivative is e^(x / alpha) = y / alpha + 1
vjp("Celu", lambda op, d, c: _slope_below(op, d, c, op.Add(op.Div(c.y[0], c.attribute("alpha", 1.0)), 1.0)))


def _selu(op: Builder, d: Any, c: Call) -> Any:
    """Gamma x above zero, gamma alpha (e^x - 1) below."""
    alpha, gamma = c.attribute("alpha", 1.67326319217681884765625), c.attribute("gamma", 1.05070102214813232421875)
    return op.Mul(d, op.Where(op.Greater(c.x[0], 0.0), gamma, op.Add(c.y[0], alpha * gamma)))


vjp("Selu", _selu)
vjp("Sigmoid", lambda op, d, c: op.Mul(d, op.Mul(c.y[0], _one_minus(op, c.y[0]))))
vjp("Softplus", lambda op, d, c: op.Mul(d, op.Sigmoid(c.x[0])))


def _softsign(op: Builder, d: Any, c: Call) -> Any:
    slope = op.Reciprocal(op.Add(op.Abs(c.x[0]), 1.0))
    return op.Mul(d, op.Mul(slope, slope))


vjp("Softsign", _softsign)


def _inside(op: Builder, y: Any, low: float, high: float) -> Any:
    return as_mask(op, op.And(op.Greater(y, low), op.Less(y, high)), y)


def _hard_sigmoid(op: Builder, d: Any, c: Call) -> Any:
    """A ramp: its slope between 0 and 1, nothing at the ends."""
    return op.Mul(d, op.Mul(_inside(op, c.y[0], 0.0, 1.0), c.attribute("alpha", 0.2)))


def _hard_swish(op: Builder, d: Any, c: Call) -> Any:
    """X h(x), h(x) = clip(x / 6 + 1/2, 0, 1): h + x / 6 where h is not clipped."""
    x = c.x[0]
    ramp = op.HardSigmoid(x, alpha=1 / 6, beta=0.5)
    return op.Mul(d, op.Add(ramp, op.Mul(op.Mul(x, _inside(op, x, -3.0, 3.0)), 1 / 6)))


vjp("HardSigmoid", _hard_sigmoid)
vjp("HardSwish", _hard_swish)


def _swish(op: Builder, d: Any, c: Call) -> Any:
    """X s, s = sigmoid(alpha x): s + alpha y (1 - s)."""
    alpha = c.attribute("alpha", 1.0)
    gate = op.Sigmoid(c.x[0] if alpha == 1.0 else op.Mul(c.x[0], alpha))
    return op.Mul(d, op.Add(gate, op.Mul(op.Mul(c.y[0], alpha), _one_minus(op, gate))))


def _mish(op: Builder, d: Any, c: Call) -> Any:
    """X t, t = tanh(softplus(x)): t + x (1 - t^2) sigmoid(x)."""
    x = c.x[0]
    gate = op.Tanh(op.Softplus(x))
    rise = op.Mul(op.Mul(x, _one_minus(op, op.Mul(gate, gate))), op.Sigmoid(x))
    return op.Mul(d, op.Add(gate, rise))


vjp("Swish", _swish)
vjp("Mish", _mish)


def _gelu(op: Builder, d: Any, c: Call) -> Any:
    return (_gelu_tanh if c.attribute("approximate", "none") == "tanh" else _gelu_erf)(op, d, c.x[0])


def _gelu_erf(op: Builder, d: ir.Value, x: Any) -> Any:
    """X F(x), F = normal distribution: F + x F'."""
    scaled = op.Mul(x, 1 / sqrt(2))
    distribution = op.Mul(op.Add(op.Erf(scaled), 1.0), 0.5)
    return op.Mul(d, op.Add(distribution, op.Mul(op.Mul(x, gauss(op, scaled)), 1 / sqrt(2 * pi))))


def _gelu_tanh(op: Builder, d: ir.Value, x: Any) -> Any:
    """X (1 + t) / 2, t = tanh(a (x + b x^3))."""
    a, b = sqrt(2 / pi), 0.044715
    square = op.Mul(x, x)
    bend = op.Tanh(op.Mul(op.Mul(x, a), op.Add(op.Mul(square, b), 1.0)))
    inner = op.Mul(op.Add(op.Mul(square, 3 * b), 1.0), a)
    rise = op.Mul(op.Mul(x, inner), _one_minus(op, op.Mul(bend, bend)))
    return op.Mul(d, op.Mul(op.Add(op.Add(bend, 1.0), rise), 0.5))


vjp("Gelu", _gelu)


def _softmax(op: Builder, d: Any, c: Call) -> Any:
    """Y (d - sum(d y))."""
    axis = c.attribute("axis", -1)
    return op.Mul(c.y[0], op.Sub(d, op.ReduceSum(op.Mul(d, c.y[0]), [axis], keepdims=1)))


def _log_softmax(op: Builder, d: Any, c: Call) -> Any:
    """D - e^y sum(d)."""
    axis = c.attribute("axis", -1)
    return op.Sub(d, op.Mul(op.Exp(c.y[0]), op.ReduceSum(d, [axis], keepdims=1)))


vjp("Softmax", _softmax)
vjp("LogSoftmax", _log_softmax)
