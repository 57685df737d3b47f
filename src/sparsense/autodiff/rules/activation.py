"""Activation functions. At their kinks they follow torch: ReLU'(0) = 0."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.masks import above, at_least, at_most, complement, is_step
from sparsense.autodiff.rule import Call, vjp
from sparsense.autodiff.rules.trigonometry import gauss
from sparsense.autodiff.shapes import as_mask, dims, dtype_of, rank
from sparsense.graph.build import Builder


def _slope_below(op: Builder, d: Any, c: Call, slope: Any) -> Any:
    """1 above zero, the given slope at and below zero."""
    one = np.ones((), dtype_of(c.x[0]))
    return op.Mul(d, op.Where(op.Greater(c.x[0], 0.0), one, slope))


vjp("Relu", lambda op, d, c: op.Mul(d, above(op, c.y[0], 0.0)))
vjp("PRelu", lambda op, d, c: _slope_below(op, d, c, c.x[1]), lambda op, d, c: op.Mul(d, op.Min(c.x[0], 0.0)))
vjp("ThresholdedRelu", lambda op, d, c: op.Mul(d, above(op, c.x[0], c.attribute("alpha", 1.0))))
vjp("Shrink", lambda op, d, c: op.Mul(d, above(op, op.Abs(c.x[0]), c.attribute("lambd", 0.5))))


def _leaky_relu(op: Builder, d: Any, c: Call) -> Any:
    slope = c.attribute("alpha", 0.01)
    if 0 <= slope <= 1:
        return op.Mul(d, op.Clip(above(op, c.x[0], 0.0), slope))
    return _slope_below(op, d, c, np.asarray(slope, dtype_of(c.x[0])))


vjp("LeakyRelu", _leaky_relu)


def _elu(op: Builder, d: Any, c: Call) -> Any:
    """Below zero y = alpha (e^x - 1), so the derivative is y + alpha."""
    alpha = c.attribute("alpha", 1.0)
    rise = op.Add(c.y[0], alpha)
    return op.Mul(d, op.Clip(rise, None, 1.0)) if alpha == 1 else _slope_below(op, d, c, rise)


def _celu(op: Builder, d: Any, c: Call) -> Any:
    """Below zero y = alpha (e^(x / alpha) - 1), so the derivative is y / alpha + 1; above, that is larger than 1."""
    return op.Mul(d, op.Clip(op.Add(op.Mul(c.y[0], 1 / c.attribute("alpha", 1.0)), 1.0), None, 1.0))


def _selu(op: Builder, d: Any, c: Call) -> Any:
    """Above zero y = gamma x, below it y = gamma alpha (e^x - 1)."""
    alpha, gamma = c.attribute("alpha", 1.67326319217681884765625), c.attribute("gamma", 1.05070102214813232421875)
    return op.Mul(d, op.Where(op.Greater(c.x[0], 0.0), gamma, op.Add(c.y[0], alpha * gamma)))


vjp("Elu", _elu)
vjp("Celu", _celu)
vjp("Selu", _selu)


def _bell(op: Builder, x: Any) -> Any:
    """The derivative s (1 - s) of s = sigmoid(x), as e / (1 + e)^2 with e = exp(-|x|): accurate however small it is.

    ONNX Runtime's Sigmoid keeps three digits at -10 and none below -17; 1 - s is rounding at the other end.
    """
    fall = op.Exp(op.Neg(op.Abs(x)))
    whole = op.Add(fall, 1.0)
    return op.Div(fall, op.Mul(whole, whole))


def _sigmoid(op: Builder, d: Any, c: Call) -> Any:
    """The derivative is y (1 - y); where y multiplies x (SiLU), its own digits suffice and keep the blocked layout."""
    if any(use.node.op_type == "Mul" and c.x[0] in use.node.inputs for use in c.y[0].uses()):
        return op.Mul(d, op.Mul(c.y[0], complement(op, c.y[0])))
    return op.Mul(d, _bell(op, c.x[0]))


def _tanh(op: Builder, d: Any, c: Call) -> Any:
    """1 - y^2, which is 4 s (1 - s) for s = sigmoid(2 x)."""
    return op.Mul(d, op.Mul(_bell(op, op.Mul(c.x[0], 2.0)), 4.0))


def _softplus(op: Builder, d: Any, c: Call) -> Any:
    """sigmoid(x) = e^(x - y)."""
    return op.Mul(d, op.Exp(op.Sub(c.x[0], c.y[0])))


def _softsign(op: Builder, d: Any, c: Call) -> Any:
    slope = op.Reciprocal(op.Add(op.Abs(c.x[0]), 1.0))
    return op.Mul(d, op.Mul(slope, slope))


vjp("Sigmoid", _sigmoid)
vjp("Tanh", _tanh)
vjp("Softplus", _softplus)
vjp("Softsign", _softsign)


def _hard_sigmoid(op: Builder, d: Any, c: Call) -> Any:
    """A ramp: its slope where the output lies between 0 and 1, nothing at the ends."""
    inside = as_mask(op, op.And(op.Greater(c.y[0], 0.0), op.Less(c.y[0], 1.0)), c.y[0])
    return op.Mul(d, op.Mul(inside, c.attribute("alpha", 0.2)))


def _hard_swish(op: Builder, d: Any, c: Call) -> Any:
    """With y = x h and h = clip(x / 6 + 1/2, 0, 1): the derivative is h + x / 6 where h is not clipped."""
    x = c.x[0]
    ramp = op.HardSigmoid(x, alpha=1 / 6, beta=0.5)
    inside = op.Mul(at_least(op, x, -3.0), at_most(op, x, 3.0))
    return op.Mul(d, op.Add(ramp, op.Mul(op.Mul(x, inside), 1 / 6)))


vjp("HardSigmoid", _hard_sigmoid, flat=is_step)
vjp("HardSwish", _hard_swish)


def _swish(op: Builder, d: Any, c: Call) -> Any:
    """With y = x s and s = sigmoid(alpha x): the derivative is s + alpha y (1 - s)."""
    alpha = c.attribute("alpha", 1.0)
    gate = op.Sigmoid(c.x[0] if alpha == 1.0 else op.Mul(c.x[0], alpha))
    return op.Mul(d, op.Add(gate, op.Mul(op.Mul(c.y[0], alpha), complement(op, gate))))


def _mish(op: Builder, d: Any, c: Call) -> Any:
    """With y = x t and t = tanh(softplus(x)): the derivative is t + x (1 - t^2) sigmoid(x)."""
    x = c.x[0]
    soft = op.Softplus(x)
    gate = op.Tanh(soft)
    rise = op.Mul(op.Mul(x, complement(op, op.Mul(gate, gate))), op.Exp(op.Sub(x, soft)))
    return op.Mul(d, op.Add(gate, rise))


vjp("Swish", _swish)
vjp("Mish", _mish)


def _gelu(op: Builder, d: Any, c: Call) -> Any:
    return (_gelu_tanh if c.attribute("approximate", "none") == "tanh" else _gelu_erf)(op, d, c.x[0])


def _gelu_erf(op: Builder, d: ir.Value, x: Any) -> Any:
    """With y = x F and F the normal distribution: the derivative is F + x F'."""
    scaled = op.Mul(x, 1 / sqrt(2))
    distribution = op.Mul(op.Add(op.Erf(scaled), 1.0), 0.5)
    return op.Mul(d, op.Add(distribution, op.Mul(op.Mul(x, gauss(op, scaled)), 1 / sqrt(2 * pi))))


def _gelu_tanh(op: Builder, d: ir.Value, x: Any) -> Any:
    """With y = x (1 + t) / 2 and t = tanh(a (x + b x^3))."""
    a, b = sqrt(2 / pi), 0.044715
    square = op.Mul(x, x)
    bend = op.Tanh(op.Mul(op.Mul(x, a), op.Add(op.Mul(square, b), 1.0)))
    inner = op.Mul(op.Add(op.Mul(square, 3 * b), 1.0), a)
    rise = op.Mul(op.Mul(x, inner), complement(op, op.Mul(bend, bend)))
    return op.Mul(d, op.Mul(op.Add(op.Add(bend, 1.0), rise), 0.5))


vjp("Gelu", _gelu)


def _softmax(op: Builder, d: Any, c: Call) -> Any:
    """The derivative is y (d - sum(d y)).

    A row of classes may be so sure that 1 - y is rounding: there d counts from that of the largest y, which changes
    nothing, and nothing cancels.
    """
    axis = c.attribute("axis", -1)
    if rank(c.x[0]) == 2:
        d = op.Sub(d, op.GatherElements(d, op.ArgMax(c.y[0], axis=axis, keepdims=1), axis=axis))
    return op.Mul(c.y[0], op.Sub(d, op.ReduceSum(op.Mul(d, c.y[0]), [axis], keepdims=1)))


def _log_softmax(op: Builder, d: Any, c: Call) -> Any:
    """The derivative is d - p sum(d), p = softmax(x); of the largest p, 1 - p is taken as the sum of the others."""
    axis, total = c.attribute("axis", -1), op.ReduceSum(d, [c.attribute("axis", -1)], keepdims=1)
    p, count = op.Softmax(c.x[0], axis=axis), dims(c.x[0])[axis]
    if not isinstance(count, int):
        return op.Sub(d, op.Mul(p, total))
    places = np.arange(count).reshape(-1, *[1] * (rank(c.x[0]) - 1 - axis % rank(c.x[0])))
    top = as_mask(op, op.Equal(op.ArgMax(p, axis=axis, keepdims=1), places), p)
    others = op.Mul(p, op.Sub(1.0, top))
    away = op.Sub(op.Mul(top, op.ReduceSum(others, [axis], keepdims=1)), others)  # top - p
    return op.Add(op.Sub(d, op.Mul(top, total)), op.Mul(away, total))


vjp("Softmax", _softmax)
vjp("LogSoftmax", _log_softmax)
