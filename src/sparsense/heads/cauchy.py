"""The Cauchy combination of evidence, in a form that float32 can hold."""

from __future__ import annotations

from math import log, pi

import onnx_ir as ir

from sparsense.autodiff.shapes import dims
from sparsense.graph.build import Builder

LEAST_SURPRISE = -log(0.99)  # an input that a head finds more usual than 99 % of the data is not more than usual
SMALL = 1e-30


def cauchy(op: Builder, surprise: ir.Value) -> ir.Value:
    """sgn(T) log(1 + |T|) with T = mean_m cot(pi p_m), p_m = min(exp(-s_m), 0.99), for s [N, M]: [N].

    cot(pi p) grows like exp(s) / pi. With m = max s, T = exp(m) U and U = mean exp(s - m) p cot(pi p) / p stays in
    range: where U > 0, log(1 + T) is the softplus of m + log U; where U < 0, m is small.
    """
    surprise = op.Max(surprise, LEAST_SURPRISE)
    largest = op.ReduceMax(surprise, [1], keepdims=1)
    p = op.Exp(op.Neg(surprise))
    scaled = op.Div(op.Mul(op.Cos(op.Mul(p, pi)), p), op.Max(op.Sin(op.Mul(p, pi)), SMALL))  # p cot(pi p)
    steady = op.Where(op.Less(p, 1e-4), op.Add(op.Mul(scaled, 0.0), 1 / pi), scaled)
    weights = op.Exp(op.Sub(surprise, largest))
    mean = op.Mul(op.ReduceSum(op.Mul(steady, weights), [1], keepdims=1), 1 / dims(surprise)[1])
    log_size = op.Add(largest, op.Log(op.Max(op.Abs(mean), SMALL)))
    magnitude = op.Add(op.Max(log_size, 0.0), op.Log(op.Add(op.Exp(op.Neg(op.Abs(log_size))), 1.0)))
    return op.Squeeze(op.Mul(op.Sign(mean), magnitude), [1])
