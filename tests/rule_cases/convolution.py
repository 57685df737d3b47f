"""Cases of convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rule_cases.case import Case, Draw, case

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def geometry(draw: Draw, *, largest_pad: int = 3) -> dict[str, list[int]]:
    """Kernel, strides, asymmetric pads, dilations of 1 to 3 axes."""
    axes = draw.choose(1, 2, 2, 3)
    kernel = [draw.int(1, 4 if axes < 3 else 2) for _ in range(axes)]
    return {
        "kernel_shape": kernel,
        "strides": [draw.int(1, 3)] * axes if draw.choose(True, False) else [draw.int(1, 3) for _ in range(axes)],
        "dilations": [draw.int(1, 2) for _ in range(axes)],
        "pads": [draw.int(0, largest_pad) for _ in range(2 * axes)],
    }


def sizes(draw: Draw, window: dict[str, list[int]]) -> list[int]:
    """Input sizes for which at least one output sees the input and not only padding."""
    axes = len(window["kernel_shape"])
    reach = [(k - 1) * d for k, d in zip(window["kernel_shape"], window["dilations"], strict=True)]
    ends = window["pads"][axes:]
    return [max(s + r - e, 1) + draw.int(0, 4) for s, r, e in zip(window["strides"], reach, ends, strict=True)]


def padded(x: torch.Tensor, pads: list[int], value: float = 0.0) -> torch.Tensor:
    """ONNX pads (begins, then ends) as torch.nn.functional.pad wants them."""
    axes = len(pads) // 2
    return F.pad(x, [p for axis in reversed(range(axes)) for p in (pads[axis], pads[axes + axis])], value=value)


@case("Conv")
def conv(draw: Draw) -> Case:
    window = geometry(draw)
    group = draw.choose(1, 1, 2, 3)
    into, out = group * draw.int(1, 2), group * draw.int(1, 2)
    x = draw.array(draw.int(1, 2), into, *sizes(draw, window))
    weight, bias = draw.array(out, into // group, *window["kernel_shape"]), draw.array(out)
    w, b = torch.tensor(weight), torch.tensor(bias)
    biased = draw.choose(True, False)

    def function(x: torch.Tensor) -> torch.Tensor:
        convolve: Any = CONV[x.ndim - 2]
        options = {"stride": window["strides"], "dilation": window["dilations"], "groups": group}
        return convolve(padded(x, window["pads"]), w, b if biased else None, **options)

    extra = (bias,) if biased else ()
    return Case([x], lambda op, x: op.Conv(x, weight, *extra, **window, group=group), function)


@case("Conv")
def depthwise(draw: Draw) -> Case:
    channels, stride, size = draw.int(1, 4), draw.int(1, 2), draw.int(3, 6)
    weight = draw.array(channels, 1, 3, 3)
    w = torch.tensor(weight)
    return Case(
        [draw.array(2, channels, size, size)],
        lambda op, x: op.Conv(x, weight, pads=[1] * 4, strides=[stride] * 2, group=channels),
        lambda x: F.conv2d(x, w, stride=stride, padding=1, groups=channels),
    )


@case("Conv")
def same_padding(draw: Draw) -> Case:
    """auto_pad, worked out from the sizes."""
    kernel, stride, size = draw.int(1, 4), draw.int(1, 3), draw.int(3, 7)
    auto = draw.choose("SAME_UPPER", "SAME_LOWER", "VALID")
    size = max(size, kernel)
    total = 0 if auto == "VALID" else max((-(-size // stride) - 1) * stride + kernel - size, 0)
    small, large = total // 2, total - total // 2
    pads = [small] * 2 + [large] * 2 if auto == "SAME_UPPER" else [large] * 2 + [small] * 2
    weight = draw.array(2, 3, kernel, kernel)
    w = torch.tensor(weight)
    return Case(
        [draw.array(2, 3, size, size)],
        lambda op, x: op.Conv(x, weight, auto_pad=auto, strides=[stride] * 2),
        lambda x: F.conv2d(padded(x, pads), w, stride=stride),
    )


@case("Conv")
def bias_is_differentiable(draw: Draw) -> Case:
    weight = draw.array(2, 3, 2)
    w = torch.tensor(weight)
    return Case(
        [draw.array(2, 3, 4), draw.array(2)], lambda op, x, b: op.Conv(x, weight, b), lambda x, b: F.conv1d(x, w, b)
    )


@case("ConvTranspose")
def conv_transpose(draw: Draw) -> Case:
    draw.single()  # the reference implementation is wrong for groups and dilations
    window = geometry(draw, largest_pad=1)
    axes = len(window["kernel_shape"])
    group = draw.choose(1, 1, 2)
    into, out = group * draw.int(1, 2), group * draw.int(1, 2)
    extra = [draw.int(0, s - 1) for s in window["strides"]]
    # enough inputs that something is left after the pads are cut
    x = draw.array(draw.int(1, 2), into, *(draw.int(3, 4) for _ in range(axes)))
    weight, bias = draw.array(into, out // group, *window["kernel_shape"]), draw.array(out)
    w, b = torch.tensor(weight), torch.tensor(bias)

    def function(x: torch.Tensor) -> torch.Tensor:
        options = {"stride": window["strides"], "dilation": window["dilations"], "groups": group}
        full = TRANSPOSED[axes](x, w, b, output_padding=0, **options)
        pads = window["pads"]
        cut = [-p for p in pads[:axes]] + [e - p for e, p in zip(extra, pads[axes:], strict=True)]
        # what output_padding adds received nothing but the bias
        return padded(full - b.reshape(-1, *[1] * axes), cut) + b.reshape(-1, *[1] * axes)

    attributes = {**window, "group": group, "output_padding": extra}
    return Case([x], lambda op, x: op.ConvTranspose(x, weight, bias, **attributes), function)


@case("ConvTranspose")
def transposed_same(draw: Draw) -> Case:
    """auto_pad makes the output `stride` times the input."""
    kernel, stride = draw.int(2, 4), draw.int(1, 2)
    auto = draw.choose("SAME_UPPER", "SAME_LOWER")
    total = kernel - stride
    size = 4
    weight = draw.array(2, 3, kernel, kernel)
    w = torch.tensor(weight)
    small, large = total // 2, total - total // 2
    begin, end = (small, large) if auto == "SAME_UPPER" else (large, small)

    def function(x: torch.Tensor) -> torch.Tensor:
        full = F.conv_transpose2d(x, w, stride=stride)
        return padded(full, [-begin, -begin, -end, -end])

    return Case(
        [draw.array(2, 2, size, size)],
        lambda op, x: op.ConvTranspose(x, weight, auto_pad=auto, strides=[stride] * 2),
        function,
    )


@case("ConvTranspose")
def enlarges_by_two(draw: Draw) -> Case:
    """What decoders write: kernel 4, stride 2, padding 1."""
    weight = draw.array(3, 2, 4, 4)
    w = torch.tensor(weight)
    return Case(
        [draw.array(2, 3, 3, 3)],
        lambda op, x: op.ConvTranspose(x, weight, strides=[2, 2], pads=[1, 1, 1, 1]),
        lambda x: F.conv_transpose2d(x, w, stride=2, padding=1) + np.float64(0),
    )
