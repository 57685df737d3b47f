"""Single layers for the tests of per-sample quantities: a graph around each, and the same sample by sample in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F

from rule_cases.case import Draw
from rule_cases.convolution import CONV, TRANSPOSED, geometry, padded, sizes
from sparsense.autodiff.layers import Layer, as_layer
from sparsense.autodiff.samples import Order
from sparsense.graph.build import Builder


@dataclass
class Single:
    """A graph `input -> tanh -> layer -> output` and what is needed to do the same in torch."""

    graph: ir.Graph
    op: Builder
    layer: Layer
    inputs: np.ndarray
    seed: np.ndarray
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    @property
    def model(self) -> ir.Model:
        return ir.Model(self.graph, ir_version=10)

    def gradients(self) -> np.ndarray:
        """Per-sample weight gradients [N, *weight shape], one sample after the other, in float64."""
        found = []
        weight = torch.tensor(self.layer.weight, dtype=torch.float64, requires_grad=True)
        for x, u in zip(torch.tensor(self.inputs).double(), torch.tensor(self.seed).double(), strict=True):
            y = self.function(x[None].tanh(), weight)
            found.append(torch.autograd.grad((y * u.reshape(y.shape)).sum(), weight)[0])
        return torch.stack(found).numpy()


def single(
    draw: Draw,
    shape: Sequence[int],
    make: Callable[[Builder, ir.Value], ir.Value],
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    merged: int = 1,
    order: Order = "outer",
    known: bool = True,
) -> Single:
    """A layer over `[N, *shape]`; with `merged`, over its parts in some order, made of `[N, merged, *shape]`."""
    samples = draw.int(1, 3)
    whole = (merged, *shape) if merged > 1 else tuple(shape)
    axes = list(whole) if known or merged > 1 else [whole[0], *(f"H{i}" for i in range(len(whole) - 1))]
    x = ir.val("input", ir.DataType.FLOAT, ["N", *axes])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": draw.opset()}, name="single")
    op = Builder(graph)
    value = op.Tanh(x)
    if merged > 1:
        value = ordered(op, value, order, [-1, *shape])
    output = make(op, value)
    node = output.producer()
    layer = as_layer(node, scales=True)
    assert layer is not None
    layer = replace(layer, order=order if merged > 1 else "first")
    inputs = draw.array(samples, *whole).astype(np.float32)
    one = torch.tensor(inputs[:1].reshape(-1, *shape)).double()
    result = function(one.tanh(), torch.tensor(layer.weight).double())
    seed_shape = [samples, *((merged, *result.shape[1:]) if merged > 1 else result.shape[1:])]
    seed = draw.array(*seed_shape).astype(np.float32)
    seed_value = ir.val("seed", ir.DataType.FLOAT, ["N", *seed_shape[1:]])
    graph.inputs.append(seed_value)

    def of_sample(sample: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return function(sample.reshape(-1, *shape), weight)

    return Single(graph, op, layer, inputs, seed, of_sample)


def ordered(op: Builder, value: ir.Value, order: Order, shape: object) -> ir.Value:
    """[N, k, ...] -> [N * k, ...], [k * N, ...] or [k, N, ...]."""
    if order in ("inner", "second"):
        value = op.Transpose(value, perm=[1, 0, *range(2, len(value.shape))])
    return value if order == "second" else op.Reshape(value, shape)


def delta(case: Single) -> ir.Value:
    """The gradient that arrives at the layer's output: the seed, in the output's own shape."""
    seed, output = case.graph.inputs[1], case.layer.output
    if case.layer.order == "first":
        return seed
    arranged = ordered(case.op, seed, case.layer.order, case.op.Shape(output))
    arranged.shape = output.shape
    return arranged


def conv(draw: Draw) -> Single:
    window, group = geometry(draw), draw.choose(1, 1, 2)
    into, out = group * draw.int(1, 3), group * draw.int(1, 3)
    weight = draw.array(out, into // group, *window["kernel_shape"]).astype(np.float32)
    bias = draw.array(out).astype(np.float32)
    options: Any = {"stride": window["strides"], "dilation": window["dilations"], "groups": group}
    return single(
        draw,
        [into, *sizes(draw, window)],
        lambda op, x: op.Conv(x, weight, bias, **window, group=group),
        lambda x, w: CONV[x.ndim - 2](padded(x, window["pads"]), w, **options),
        merged=draw.choose(1, 1, 2),
        order=draw.choose("outer", "inner"),
        known=draw.choose(True, True, False),
    )


def depthwise(draw: Draw) -> Single:
    channels, stride = draw.int(2, 4), draw.int(1, 2)
    weight = draw.array(channels, 1, 3, 3).astype(np.float32)
    return single(
        draw,
        [channels, 6, 5],
        lambda op, x: op.Conv(x, weight, pads=[1] * 4, strides=[stride] * 2, group=channels),
        lambda x, w: F.conv2d(x, w, stride=stride, padding=1, groups=channels),
    )


def conv_transpose(draw: Draw) -> Single:
    window, group = geometry(draw, largest_pad=1), draw.choose(1, 1, 2)
    axes = len(window["kernel_shape"])
    into, out = group * draw.int(1, 2), group * draw.int(1, 2)
    weight = draw.array(into, out // group, *window["kernel_shape"]).astype(np.float32)
    options: Any = {"stride": window["strides"], "dilation": window["dilations"], "groups": group}
    return single(
        draw,
        [into, *(draw.int(3, 4) for _ in range(axes))],
        lambda op, x: op.ConvTranspose(x, weight, **window, group=group),
        lambda x, w: padded(TRANSPOSED[axes](x, w, **options), [-p for p in window["pads"]]),
    )


def gemm(draw: Draw) -> Single:
    into, out, alpha = draw.int(1, 4), draw.int(1, 4), draw.choose(1.0, 0.5)
    trans_b = draw.int(0, 1)
    weight = draw.array(*((out, into) if trans_b else (into, out))).astype(np.float32)
    bias = draw.array(out).astype(np.float32)
    return single(
        draw,
        [into],
        lambda op, x: op.Gemm(x, weight, bias, transB=trans_b, alpha=alpha, beta=2.0),
        lambda x, w: alpha * x @ (w.T if trans_b else w),
        merged=draw.choose(1, 2, 3),
        order=draw.choose("outer", "inner"),
    )


def matmul(draw: Draw) -> Single:
    into, out = draw.int(1, 4), draw.int(1, 4)
    weight = draw.array(into, out).astype(np.float32)
    between = [draw.int(1, 3) for _ in range(draw.int(0, 2))]
    return single(
        draw,
        [*between, into],
        lambda op, x: op.MatMul(x, weight),
        lambda x, w: x @ w,
        merged=draw.choose(1, 2, 3),
        order=draw.choose("outer", "inner", "second"),
    )


def matmul_weight_first(draw: Draw) -> Single:
    into, out = draw.int(1, 4), draw.int(1, 4)
    weight = draw.array(out, into).astype(np.float32)
    between = [draw.int(1, 3) for _ in range(draw.int(0, 1))]
    return single(draw, [*between, into, draw.int(1, 3)], lambda op, x: op.MatMul(weight, x), lambda x, w: w @ x)


def layer_norm(draw: Draw) -> Single:
    weight, bias = draw.array(4).astype(np.float32), draw.array(4).astype(np.float32)
    return single(
        draw,
        [draw.int(1, 3), 4],
        lambda op, x: op.LayerNormalization(x, weight, bias),
        lambda x, w: F.layer_norm(x, [4], w),
        merged=draw.choose(1, 2),
        order=draw.choose("outer", "inner", "second"),
    )


def group_norm(draw: Draw) -> Single:
    draw.opset(21)
    weight, bias = draw.array(4).astype(np.float32), draw.array(4).astype(np.float32)
    return single(
        draw,
        [4, draw.int(2, 3), 2],
        lambda op, x: op.GroupNormalization(x, weight, bias, num_groups=2),
        lambda x, w: F.group_norm(x, 2, w),
    )


def rms_norm(draw: Draw) -> Single:
    draw.opset(23)
    weight = draw.array(4).astype(np.float32)
    return single(
        draw,
        [draw.int(1, 3), 4],
        lambda op, x: op.RMSNormalization(x, weight),
        lambda x, w: F.rms_norm(x, [4], w, eps=1e-5),
    )


def instance_norm(draw: Draw) -> Single:
    weight, bias = draw.array(3).astype(np.float32), draw.array(3).astype(np.float32)
    return single(
        draw,
        [3, draw.int(2, 3), 2],
        lambda op, x: op.InstanceNormalization(x, weight, bias),
        lambda x, w: F.instance_norm(x, weight=w),
    )


def batch_norm(draw: Draw) -> Single:
    weight, bias, mean = (draw.array(3).astype(np.float32) for _ in range(3))
    variance = draw.array(3, low=0.5).astype(np.float32)
    m, v = torch.tensor(mean).double(), torch.tensor(variance).double()
    return single(
        draw,
        [3, 2, 2],
        lambda op, x: op.BatchNormalization(x, weight, bias, mean, variance),
        lambda x, w: F.batch_norm(x, m, v, w),
    )


LAYERS = {
    f.__name__: f
    for f in (
        conv, depthwise, conv_transpose, gemm, matmul, matmul_weight_first, layer_norm, rms_norm, group_norm,
        instance_norm, batch_norm,
    )
}  # fmt: skip
