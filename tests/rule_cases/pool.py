"""Cases of pooling."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from rule_cases.case import Case, Draw, case
from rule_cases.convolution import padded

MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def pool_window(draw: Draw, *, dilated: bool) -> dict[str, list[int]]:
    """Overlapping or not, padded by at most half the kernel, perhaps with partial windows at the end."""
    axes = draw.choose(1, 2, 2)
    kernel = [draw.int(1, 3) for _ in range(axes)]
    return {
        "kernel_shape": kernel,
        "strides": [draw.int(1, 3) for _ in range(axes)],
        "dilations": [draw.int(1, 2) if dilated else 1 for _ in range(axes)],
        "pads": [draw.int(0, k // 2) for k in kernel] * 2,
        "ceil_mode": draw.int(0, 1) if draw.opset() >= 22 else 0,  # before, its shapes are not agreed upon
    }


def patches(x: torch.Tensor, window: dict[str, list[int]], outputs: list[int], fill: float) -> torch.Tensor:
    """[N, C, *outputs, taps]: what every window sees; positions beyond the input hold `fill`."""
    axes = len(window["kernel_shape"])
    begins = window["pads"][:axes]
    reach = [(k - 1) * d for k, d in zip(window["kernel_shape"], window["dilations"], strict=True)]
    ends = [
        max((o - 1) * s + r + 1 - b - n, 0)
        for o, s, r, b, n in zip(outputs, window["strides"], reach, begins, x.shape[2:], strict=True)
    ]
    x = padded(x, [*begins, *ends], fill)
    views = []
    for tap in np.ndindex(*window["kernel_shape"]):
        where = [
            slice(j * d, j * d + (o - 1) * s + 1, s)
            for j, d, o, s in zip(tap, window["dilations"], outputs, window["strides"], strict=True)
        ]
        views.append(x[(slice(None), slice(None), *where)])
    return torch.stack(views, -1)


def outputs_of(window: dict[str, list[int]], size: list[int]) -> list[int]:
    """Number of windows per axis; in ceil mode a last one counts if it starts inside the input or its left padding."""
    made = []
    axes = len(size)
    for i, n in enumerate(size):
        k, s, d = window["kernel_shape"][i], window["strides"][i], window["dilations"][i]
        b, e = window["pads"][i], window["pads"][axes + i]
        room = n + b + e - (k - 1) * d - 1
        count = (-(-room // s) if window["ceil_mode"] else room // s) + 1
        made.append(count - 1 if window["ceil_mode"] and (count - 1) * s >= n + b else count)
    return made


def inputs(draw: Draw, window: dict[str, list[int]]) -> np.ndarray:
    least = [(k - 1) * d + 1 for k, d in zip(window["kernel_shape"], window["dilations"], strict=True)]
    return draw.array(draw.int(1, 2), draw.int(1, 3), *(n + draw.int(0, 4) for n in least))


@case("MaxPool")
def max_pool(draw: Draw) -> Case:
    window = pool_window(draw, dilated=True)
    x = inputs(draw, window)
    made = outputs_of(window, list(x.shape[2:]))
    return Case([x], lambda op, x: op.MaxPool(x, **window), lambda x: patches(x, window, made, -torch.inf).amax(-1))


@case("MaxPool")
def max_pool_of_ties(draw: Draw) -> Case:
    """The first of equal elements takes all, as in torch; zeros after a ReLU are the usual case."""
    x = np.asarray([[[[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [2.0, 3.0, 5.0, 5.0], [3.0, 3.0, 5.0, 5.0]]]])
    kernel, stride = draw.choose((2, 2), (3, 1))
    return Case(
        [x],
        lambda op, x: op.MaxPool(x, kernel_shape=[kernel] * 2, strides=[stride] * 2),
        lambda x: F.max_pool2d(x, kernel, stride),
    )


@case("AveragePool")
def average_pool(draw: Draw) -> Case:
    window = pool_window(draw, dilated=draw.opset() >= 19)
    attributes = {name: value for name, value in window.items() if name != "dilations" or draw.opset() >= 19}
    include = draw.int(0, 1)
    x = inputs(draw, window)
    made = outputs_of(window, list(x.shape[2:]))
    axes = x.ndim - 2
    ones = torch.ones_like(torch.tensor(x))
    if include:  # declared padding counts, what ceil mode adds beyond it does not
        ones = padded(ones, window["pads"], 1.0)
        shifted = {**window, "pads": [0] * 2 * axes}
        counts = patches(ones, shifted, made, 0.0).sum(-1)
    else:
        counts = patches(ones, window, made, 0.0).sum(-1)
    return Case(
        [x],
        lambda op, x: op.AveragePool(x, **attributes, count_include_pad=include),
        lambda x: patches(x, window, made, 0.0).sum(-1) / counts,
    )


@case("AveragePool")
def average_over_everything(draw: Draw) -> Case:
    size = draw.int(1, 4)
    return Case(
        [draw.array(2, 3, size, size)],
        lambda op, x: op.AveragePool(x, kernel_shape=[size, size]),
        lambda x: x.mean((2, 3), keepdim=True),
    )


@case("LpPool")
def lp_pool(draw: Draw) -> Case:
    draw.single()
    p = draw.int(1, 3)
    window = pool_window(draw, dilated=True)
    x = inputs(draw, window)
    made = outputs_of(window, list(x.shape[2:]))
    return Case(
        [x],
        lambda op, x: op.LpPool(x, **window, p=p),
        lambda x: patches(x, window, made, 0.0).abs().pow(p).sum(-1).pow(1 / p),
    )


@case("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pools(draw: Draw) -> Case:
    draw.single()
    draw.opset(high=21)  # the newest GlobalLpPool that ONNX Runtime computes
    p = draw.int(1, 3)
    x = draw.array(draw.int(1, 2), draw.int(1, 3), *(draw.int(1, 4) for _ in range(draw.int(1, 3))))
    axes = tuple(range(2, x.ndim))

    def graph(op, x):
        return op.Add(op.GlobalAveragePool(x), op.Mul(op.GlobalMaxPool(x), op.GlobalLpPool(x, p=p)))

    def function(x):
        norm = x.abs().pow(p).sum(axes, keepdim=True).pow(1 / p)
        return x.mean(axes, keepdim=True) + x.amax(axes, keepdim=True) * norm

    return Case([x], graph, function)


@case("GlobalMaxPool")
def global_max_of_ties(draw: Draw) -> Case:
    """The first of equal elements takes all, as in torch.nn.AdaptiveMaxPool2d(1)."""
    x = np.asarray([[[[1.0, 3.0], [3.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]]]])
    return Case([x], lambda op, x: op.GlobalMaxPool(x), lambda x: F.adaptive_max_pool2d(x, 1))
