"""Cases of linear maps along axes: padding and resizing."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F

from rule_cases.case import Case, Draw, case
from rule_cases.convolution import padded

TORCH_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@case("Pad")
def constant_padding(draw: Draw) -> Case:
    """Positive and negative pads, all axes or some."""
    shape = [draw.int(2, 4) for _ in range(3)]
    pads = [draw.int(-1, 2) for _ in range(2)]
    before, after = [0, 0, pads[0]], [0, 0, pads[1]]
    given = draw.choose(([*before, *after], None, None), (pads, 0.0, [2]), (pads, 0.0, [-1]))
    pad, value, axes = given
    return Case(
        [draw.array(*shape)],
        lambda op, x: op.Exp(op.Pad(x, pad, value, axes)),
        lambda x: F.pad(x, pads).exp(),
    )


@case("Pad")
def repeating_padding(draw: Draw) -> Case:
    mode = draw.choose("reflect", "edge", *(["wrap"] if draw.opset() >= 19 else []))
    size = [draw.int(3, 4) for _ in range(2)]
    pads = [draw.int(0, 2) for _ in range(4)]
    onnx_pads = [0, 0, *pads[:2], 0, 0, *pads[2:]]

    def function(x):
        sides = [pads[1], pads[3], pads[0], pads[2]]
        return F.pad(x, sides, mode=TORCH_MODES[mode]).exp()

    return Case([draw.array(2, 2, *size)], lambda op, x: op.Exp(op.Pad(x, onnx_pads, mode=mode)), function)


@case("Pad")
def pads_computed_at_run_time(draw: Draw) -> Case:
    """What exporters write when they pad one value to the size of another."""
    x, y = draw.array(2, 3), draw.array(2, 3 + draw.int(0, 2))
    missing = y.shape[1] - 3

    def graph(op, x, y):
        lacking = op.Sub(op.Shape(y), op.Shape(x))
        return op.Mul(op.Pad(x, op.Concat(np.zeros(2, np.int64), lacking, axis=0)), y)

    return Case([x, y], graph, lambda x, y: padded(x[:, None], [0, missing])[:, 0] * y)


@case("Resize")
def nearest(draw: Draw) -> Case:
    """Repetition, as every exporter writes it for nn.Upsample."""
    ratio = [draw.int(1, 3), draw.int(1, 3)]
    x = draw.array(2, 2, draw.int(1, 3), draw.int(1, 3))
    options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    scales = np.asarray([1, 1, *ratio], np.float32)
    sizes = [2, 2, *(n * r for n, r in zip(x.shape[2:], ratio, strict=True))]
    target = draw.choose((scales, None), (None, sizes))
    draw.free = draw.free and target[1] is None
    return Case(
        [x],
        lambda op, x: op.Exp(op.Resize(x, None, *target, **options)),
        lambda x: x.repeat_interleave(ratio[0], 2).repeat_interleave(ratio[1], 3).exp(),
    )


@case("Resize")
def nearest_to_any_size(draw: Draw) -> Case:
    x = draw.array(2, 2, draw.int(1, 4), draw.int(1, 4))
    made = [draw.int(1, 6), draw.int(1, 6)]
    options = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    draw.free = False
    return Case(
        [x],
        lambda op, x: op.Exp(op.Resize(x, None, None, [2, 2, *made], **options)),
        lambda x: F.interpolate(x, made, mode="nearest").exp(),
    )


@case("Resize")
def linear(draw: Draw) -> Case:
    draw.single()
    corners = draw.choose(True, False)
    x = draw.array(2, 2, draw.int(2, 4), draw.int(2, 4))
    made = [draw.int(2, 6), draw.int(2, 6)]
    mode = "align_corners" if corners else "pytorch_half_pixel"
    draw.free = False
    return Case(
        [x],
        lambda op, x: op.Exp(
            op.Resize(x, None, None, [2, 2, *made], mode="linear", coordinate_transformation_mode=mode)
        ),
        lambda x: F.interpolate(x, made, mode="bilinear", align_corners=corners).exp(),
    )


@case("Resize")
def cubic(draw: Draw) -> Case:
    draw.single()
    x = draw.array(2, 2, 4, 4)
    ratio = draw.choose(2.0, 1.5)
    draw.free = False
    options = {"mode": "cubic", "cubic_coeff_a": -0.75, "coordinate_transformation_mode": "half_pixel"}
    scales = np.asarray([1, 1, ratio, ratio], np.float32)
    return Case(
        [x],
        lambda op, x: op.Exp(op.Resize(x, None, scales, **options)),
        lambda x: F.interpolate(x, scale_factor=ratio, mode="bicubic", align_corners=False).exp(),
    )
