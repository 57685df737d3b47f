"""Normalisations, in inference mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.rule import Call, vjp
from sparsense.autodiff.shapes import as_mask, broadcast_channels, dims, dtype_of, rank, shape_like
from sparsense.graph.build import Builder


def _batch_norm(op: Builder, d: Any, c: Call) -> Any:
    """(x - mean) * scale / sqrt(var + epsilon) + bias, per channel: a fixed scaling."""
    if c.attribute("training_mode", 0):
        raise c.refuse("is in training mode, where samples mix; export the network in eval mode")
    _, scale, _, _, variance = c.x[:5]
    gain = op.Div(scale, op.Sqrt(op.Add(variance, c.attribute("epsilon", 1e-5))))
    return op.Mul(d, broadcast_channels(op, gain, c.x[0]))


vjp("BatchNormalization", _batch_norm)


def standardised(
    op: Builder, x: ir.Value, axes: Sequence[int], epsilon: float, *, centred: bool = True
) -> tuple[ir.Value, ir.Value]:
    """The value z = (x - mean) / sqrt(mean((x - mean)^2) + epsilon) over some axes, and the factor 1 / sqrt(...)."""
    axes = list(axes)
    if centred:
        x = op.Sub(x, op.ReduceMean(x, axes, keepdims=1))
    variance = op.ReduceMean(op.Mul(x, x), axes, keepdims=1)
    inverse = op.Reciprocal(op.Sqrt(op.Add(variance, epsilon)))
    return op.Mul(x, inverse), inverse


def standardise_back(
    op: Builder, d: ir.Value, x: ir.Value, axes: Sequence[int], epsilon: float, *, centred: bool = True
) -> ir.Value:
    """(d - mean(d) - z mean(d z)) / sqrt(var + epsilon): the gradient of `standardised`."""
    z, inverse = standardised(op, x, axes, epsilon, centred=centred)
    shared = op.Mul(z, op.ReduceMean(op.Mul(d, z), list(axes), keepdims=1))
    if centred:
        d = op.Sub(d, op.ReduceMean(d, list(axes), keepdims=1))
    return op.Mul(op.Sub(d, shared), inverse)


# LayerNormalization, RMSNormalization: over all axes from `axis` on; scale and bias have the shape of those axes
def _trailing(c: Call) -> list[int]:
    return list(range(c.attribute("axis", -1) % rank(c.x[0]), rank(c.x[0])))


def _layer_norm(op: Builder, d: Any, c: Call) -> Any:
    return standardise_back(op, op.Mul(d, c.x[1]), c.x[0], _trailing(c), c.attribute("epsilon", 1e-5))


def _layer_norm_scale(op: Builder, d: Any, c: Call) -> Any:
    return op.Mul(d, standardised(op, c.x[0], _trailing(c), c.attribute("epsilon", 1e-5))[0])


def _rms_norm(op: Builder, d: Any, c: Call) -> Any:
    epsilon = c.attribute("epsilon", 1e-5)
    return standardise_back(op, op.Mul(d, c.x[1]), c.x[0], _trailing(c), epsilon, centred=False)


def _rms_norm_scale(op: Builder, d: Any, c: Call) -> Any:
    epsilon = c.attribute("epsilon", 1e-5)
    return op.Mul(d, standardised(op, c.x[0], _trailing(c), epsilon, centred=False)[0])


vjp("LayerNormalization", _layer_norm, _layer_norm_scale, lambda op, d, c: d)
vjp("RMSNormalization", _rms_norm, _rms_norm_scale)


# InstanceNormalization: over the positions of each channel
def _instance_norm(op: Builder, d: Any, c: Call) -> Any:
    x, scale, _ = c.x
    scaled = op.Mul(d, broadcast_channels(op, scale, x))
    return standardise_back(op, scaled, x, range(2, rank(x)), c.attribute("epsilon", 1e-5))


def _per_channel(op: Builder, product: ir.Value) -> ir.Value:
    """Sum over everything but the channels."""
    return op.ReduceSum(product, [0, *range(2, rank(product))], keepdims=0)


def _instance_norm_scale(op: Builder, d: Any, c: Call) -> Any:
    x = c.x[0]
    z, _ = standardised(op, x, range(2, rank(x)), c.attribute("epsilon", 1e-5))
    return _per_channel(op, op.Mul(d, z))


vjp("InstanceNormalization", _instance_norm, _instance_norm_scale, lambda op, d, c: _per_channel(op, d))


# GroupNormalization: over the positions and channels of each group
def _group_norm(op: Builder, d: Any, c: Call) -> Any:
    x = c.x[0]
    grouped = [0, c.attribute("num_groups"), -1]
    scaled = op.Reshape(op.Mul(d, broadcast_channels(op, c.x[1], x)), grouped)
    back = standardise_back(op, scaled, op.Reshape(x, grouped), [2], c.attribute("epsilon", 1e-5))
    return op.Reshape(back, shape_like(op, x))


def _group_norm_scale(op: Builder, d: Any, c: Call) -> Any:
    grouped = op.Reshape(c.x[0], [0, c.attribute("num_groups"), -1])
    z, _ = standardised(op, grouped, [2], c.attribute("epsilon", 1e-5))
    return _per_channel(op, op.Mul(d, op.Reshape(z, shape_like(op, c.x[0]))))


vjp("GroupNormalization", _group_norm, _group_norm_scale, lambda op, d, c: _per_channel(op, d))


# LpNormalization: x / |x|_p along one axis; d - slope(x) sum(d y), over the norm, and 0 for a vector of zeros
def _lp_norm(op: Builder, d: Any, c: Call) -> Any:
    x, axis, p = c.x[0], [c.attribute("axis", -1)], c.attribute("p", 2)
    norm = (op.ReduceL1 if p == 1 else op.ReduceL2)(x, axis, keepdims=1)
    present = as_mask(op, op.Greater(norm, 0.0), x)
    safe = op.Add(norm, op.Sub(1.0, present))
    slope = op.Sign(x) if p == 1 else c.y[0]
    shared = op.Mul(slope, op.ReduceSum(op.Mul(d, c.y[0]), axis, keepdims=1))
    return op.Mul(op.Div(op.Sub(d, shared), safe), present)


vjp("LpNormalization", _lp_norm)


# LRN: y = x S^-beta, S = bias + alpha / size * sum of x^2 over neighbouring channels
def _local_response(op: Builder, d: Any, c: Call) -> Any:
    x = op.Reshape(c.x[0], [0, 0, -1])
    d = op.Reshape(d, [0, 0, -1])
    size, beta = c.attribute("size"), c.attribute("beta", 0.75)
    band = _neighbours(dims(c.x[0])[1], size).astype(dtype_of(x)) * dtype_of(x).type(c.attribute("alpha", 1e-4) / size)
    total = op.Add(op.MatMul(band, op.Mul(x, x)), c.attribute("bias", 1.0))
    scaled = op.Mul(d, op.Pow(total, -beta))
    shared = op.MatMul(np.ascontiguousarray(band.T), op.Div(op.Mul(scaled, x), total))
    back = op.Sub(scaled, op.Mul(op.Mul(x, shared), 2 * beta))
    return op.Reshape(back, shape_like(op, c.x[0]))


def _neighbours(channels: int, size: int) -> np.ndarray[Any, Any]:
    """[C, C]: 1 where the second channel lies in the window around the first."""
    distance = np.arange(channels)[None] - np.arange(channels)[:, None]
    return (distance >= -((size - 1) // 2)) & (distance <= size // 2)


vjp("LRN", _local_response)
