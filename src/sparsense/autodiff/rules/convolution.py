"""Convolutions: the gradient of the input is again a convolution, with constant weights, in a layout the runtime likes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff.rule import Call, vjp
from sparsense.autodiff.shapes import dims, rank
from sparsense.errors import GraphError
from sparsense.graph.build import Builder

Kernel = NDArray[Any]


@dataclass(frozen=True)
class Window:
    """Where a kernel looks: the geometry of Conv, ConvTranspose and the pools.

    Output position q covers input positions q * stride - pad_begin + j * dilation, j = 0..kernel-1, on each axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]  # begins, then ends
    dilations: tuple[int, ...]
    group: int = 1
    ceil: bool = False

    @classmethod
    def of(cls, c: Call, kernel: tuple[int, ...] | None = None) -> Window:
        """Read a node's attributes; `auto_pad` is worked out from the sizes."""
        kernel = tuple(kernel or c.attribute("kernel_shape"))
        axes = len(kernel)
        strides = tuple(c.attribute("strides", [1] * axes))
        dilations = tuple(c.attribute("dilations", [1] * axes))
        pads = tuple(c.attribute("pads", [0] * 2 * axes))
        auto = c.attribute("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            pads = _same_pads(dims(c.x[0])[2:], kernel, strides, dilations, lower=auto == "SAME_LOWER")
        return cls(
            kernel, strides, pads, dilations, c.attribute("group", 1), bool(c.attribute("ceil_mode", 0))
        )

    @property
    def begins(self) -> tuple[int, ...]:
        """Padding before the first element of each axis."""
        return self.pads[: len(self.kernel)]

    @property
    def ends(self) -> tuple[int, ...]:
        """Padding behind the last element of each axis."""
        return self.pads[len(self.kernel) :]

    def attributes(self) -> dict[str, list[int]]:
        """As attributes of a pooling node."""
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "pads": list(self.pads),
            "dilations": list(self.dilations),
        }


def _same_pads(sizes: Any, kernel: Any, strides: Any, dilations: Any, *, lower: bool) -> tuple[int, ...]:
    if not all(isinstance(size, int) for size in sizes):
        raise GraphError(
            "differentiating a graph with auto_pad=SAME: the height and width must be fixed; export it with explicit pads"
        )
    totals = [
        max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (*large, *small) if lower else (*small, *large)


# --- the input gradient of a convolution ----------------------------------------------------------------------------


def convolve_back(op: Builder, delta: ir.Value, like: ir.Value, weight: Kernel, window: Window) -> ir.Value:
    """The adjoint of `Conv(., weight)`: spread every output's gradient over the inputs that made it.

    dx[i, h] = sum over o, j with h + pad - j * dilation divisible by the stride of W[o, i, j] * delta[o, (h + pad - j * dilation) / stride]

    With stride 1 this is one convolution with the flipped, transposed kernel. With a larger stride every residue
    of h modulo the stride sees its own small kernel: one convolution makes all residues as extra channels, and they
    are then woven together (sub-pixel form). `ConvTranspose` would say the same in one node; it is several times
    slower in ONNX Runtime because it stays outside the blocked layout.

    Args:
        op: Builder.
        delta: `[N, O, *Q]`.
        like: The input of the convolution, `[N, I, *H]`: gives the sizes.
        weight: `[O, I / group, *kernel]`.
        window: The convolution's geometry.
    """
    if all(stride == 1 for stride in window.strides):
        return _back_stride_one(op, delta, weight, window)
    if all(k == 1 for k in window.kernel) and not any(window.pads):
        dense = _back_stride_one(op, delta, weight, window)
        return _fit(op, _zero_insert(op, dense, window.strides), like)
    return _back_strided(op, delta, like, weight, window)


def _adjoint_kernel(weight: Kernel, group: int) -> Kernel:
    """[O, I/g, ...] -> [I, O/g, ...]: in and out channels exchanged within each group."""
    out, per_group, *kernel = weight.shape
    blocks = weight.reshape(group, out // group, per_group, *kernel)
    return blocks.swapaxes(1, 2).reshape(group * per_group, out // group, *kernel)


def _back_stride_one(op: Builder, delta: ir.Value, weight: Kernel, window: Window) -> ir.Value:
    axes = tuple(range(2, weight.ndim))
    flipped = np.flip(_adjoint_kernel(weight, window.group), axes)
    reach = [(k - 1) * d for k, d in zip(window.kernel, window.dilations, strict=True)]
    pads = [r - p for r, p in zip([*reach, *reach], window.pads, strict=True)]
    delta, pads = _crop_negative(op, delta, pads)
    return _conv(op, delta, flipped, pads, window.dilations, window.group)


def _conv(op: Builder, x: ir.Value, kernel: Kernel, pads: list[int], dilations: Any, group: int) -> ir.Value:
    return op.Conv(
        x,
        np.ascontiguousarray(kernel),
        kernel_shape=list(kernel.shape[2:]),
        pads=pads,
        dilations=list(dilations),
        group=group,
    )


def _crop_negative(op: Builder, delta: ir.Value, pads: list[int]) -> tuple[ir.Value, list[int]]:
    """A padding larger than the kernel's reach leaves outputs that saw no input: their gradients are cut off."""
    if min(pads) >= 0:
        return delta, pads
    half = len(pads) // 2
    cut = [0, 0, *(min(p, 0) for p in pads[:half]), 0, 0, *(min(p, 0) for p in pads[half:])]
    return op.Pad(delta, cut), [max(p, 0) for p in pads]


def _back_strided(op: Builder, delta: ir.Value, like: ir.Value, weight: Kernel, window: Window) -> ir.Value:
    taps = [
        _taps(*axis)
        for axis in zip(window.kernel, window.strides, window.begins, window.dilations, strict=True)
    ]
    kernel = _phase_kernel(_adjoint_kernel(weight, window.group), taps, window.strides)
    begins = [-min(offsets) for offsets in map(_offsets, taps)]
    ends = [
        _end_padding(window, axis, taps[axis], dims(like)[2 + axis], dims(delta)[2 + axis])
        for axis in range(len(taps))
    ]
    delta, pads = _crop_negative(op, delta, [*begins, *ends])
    phases = _conv(op, delta, kernel, pads, [1] * len(taps), window.group)
    return _fit(op, _weave(op, phases, window.strides), like)


def _taps(kernel: int, stride: int, pad: int, dilation: int) -> list[list[tuple[int, int]]]:
    """For every residue r of the input position: the (kernel index, output offset) pairs that reach it."""
    reach = [(j, r + pad - j * dilation) for r in range(stride) for j in range(kernel)]
    by_residue: list[list[tuple[int, int]]] = [[] for _ in range(stride)]
    for position, (j, distance) in enumerate(reach):
        if distance % stride == 0:
            by_residue[position // kernel].append((j, distance // stride))
    return by_residue


def _offsets(taps: list[list[tuple[int, int]]]) -> list[int]:
    return [offset for residue in taps for _, offset in residue]


def _phase_kernel(
    kernel: Kernel, taps: list[list[list[tuple[int, int]]]], strides: tuple[int, ...]
) -> Kernel:
    """[I, O/g, *k] -> [I * prod(strides), O/g, *m]: one small kernel for every residue, residues vary fastest."""
    for axis, (residues, stride) in enumerate(zip(taps, strides, strict=True)):
        low, high = min(_offsets(residues)), max(_offsets(residues))
        at = 2 + 2 * axis  # earlier axes have already become (residue, offset) pairs
        shape = [*kernel.shape[:at], stride, high - low + 1, *kernel.shape[at + 1 :]]
        spread = np.zeros(shape, kernel.dtype)
        for r, pairs in enumerate(residues):
            for j, offset in pairs:
                spread[(slice(None),) * at + (r, offset - low)] = kernel[(slice(None),) * at + (j,)]
        kernel = spread
    axes = len(strides)
    order = [0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2)]
    moved = kernel.transpose(order)
    return moved.reshape(-1, *moved.shape[1 + axes :])


def _end_padding(window: Window, axis: int, taps: list[list[tuple[int, int]]], size: Any, made: Any) -> int:
    """So much that there is an output for every residue block of the input; free sizes get the largest need."""
    stride, high = window.strides[axis], max(_offsets(taps))
    if isinstance(size, int) and isinstance(made, int):
        return -(-size // stride) + high - made
    reach = (window.kernel[axis] - 1) * window.dilations[axis]
    padding = window.begins[axis] + window.ends[axis]
    needs = [
        -(-n // stride) + high - ((n + padding - reach - 1) // stride + 1)
        for n in range(reach + 1, reach + 1 + stride)
    ]
    return max(needs)


def _weave(op: Builder, phases: ir.Value, strides: tuple[int, ...]) -> ir.Value:
    """[N, I * prod(strides), *q] -> [N, I, *(q * strides)]: residues become neighbours again."""
    if len(strides) == 2 and strides[0] == strides[1]:
        return op.DepthToSpace(phases, blocksize=strides[0], mode="CRD")
    axes = len(strides)
    spatial = op.Shape(phases, start=2)
    split = op.Reshape(phases, op.Concat(np.asarray([0, -1, *strides], np.int64), spatial, axis=0))
    order = [
        0,
        1,
        *(
            axis
            for pair in zip(range(2 + axes, 2 + 2 * axes), range(2, 2 + axes), strict=True)
            for axis in pair
        ),
    ]
    woven = op.Transpose(split, perm=order)
    sizes = op.Mul(spatial, np.asarray(strides, np.int64))
    return op.Reshape(
        woven, op.Concat(np.asarray([0, dims(phases)[1] // int(np.prod(strides))], np.int64), sizes, axis=0)
    )


def _zero_insert(op: Builder, value: ir.Value, strides: tuple[int, ...]) -> ir.Value:
    """Put stride - 1 zeros behind every element, on every spatial axis."""
    axes = len(strides)
    spaced = op.Unsqueeze(value, [3 + 2 * axis for axis in range(axes)])
    ends = [0, 0, *(pad for stride in strides for pad in (0, stride - 1))]
    padded = op.Pad(spaced, [*[0] * (2 + 2 * axes), *ends])
    sizes = op.Mul(op.Shape(value, start=2), np.asarray(strides, np.int64))
    known = dims(value)[2:]
    if all(isinstance(size, int) for size in known):
        return op.Reshape(
            padded, [0, 0, *(size * stride for size, stride in zip(known, strides, strict=True))]
        )
    return op.Reshape(padded, op.Concat(np.asarray([0, 0], np.int64), sizes, axis=0))


def _fit(op: Builder, value: ir.Value, like: ir.Value) -> ir.Value:
    """Cut or zero-fill at the end so that the spatial sizes are those of `like`."""
    have, want = dims(value)[2:], dims(like)[2:]
    axes = list(range(2, rank(like)))
    if all(isinstance(size, int) for size in [*have, *want]):
        missing = [w - h for w, h in zip(want, have, strict=True)]
        return op.Pad(value, [*[0] * (2 + len(axes)), 0, 0, *missing]) if any(missing) else value
    shape = op.Shape(like, start=2)
    lacking = op.Max(op.Sub(shape, op.Shape(value, start=2)), np.asarray([0], np.int64))
    padded = op.Pad(value, op.Concat(np.zeros(2 + len(axes) + 2, np.int64), lacking, axis=0))
    return op.Slice(padded, [0] * len(axes), shape, axes)


def scatter_windows(op: Builder, delta: ir.Value, like: ir.Value, window: Window) -> ir.Value:
    """The adjoint of summing each window, channel by channel."""
    channels = dims(like)[1]
    weight = np.ones((channels, 1, *window.kernel), like.dtype.numpy())  # type: ignore[union-attr]
    depthwise = Window(window.kernel, window.strides, window.pads, window.dilations, channels)
    return convolve_back(op, delta, like, weight, depthwise)


def constant_weight(c: Call, index: int = 1) -> Kernel:
    """A weight that must be a constant, because its flipped copy is."""
    value = c.x[index]
    if value.const_value is None:
        raise GraphError(
            f"differentiating node {c.node.name!r} ({c.node.op_type}): its weight {value.name!r} is computed at run time; fold it into a constant first"
        )
    weight: Kernel = value.const_value.numpy()
    return weight


def _conv_input(op: Builder, d: Any, c: Call) -> Any:
    weight = constant_weight(c)
    return convolve_back(op, d, c.x[0], weight, Window.of(c, weight.shape[2:]))


def _conv_bias(op: Builder, d: Any, c: Call) -> Any:
    return op.ReduceSum(d, [0, *range(2, rank(d))], keepdims=0)


vjp("Conv", _conv_input, None, _conv_bias)


def _conv_transpose_input(op: Builder, d: Any, c: Call) -> Any:
    """ConvTranspose is the adjoint of a convolution, so its adjoint is that convolution."""
    weight = constant_weight(c)  # [I, O/g, ...] = the forward convolution's [out, in/g, ...]
    window = Window.of(c, weight.shape[2:])
    return op.Conv(
        d,
        c.x[1],
        kernel_shape=list(window.kernel),
        strides=list(window.strides),
        pads=list(window.pads),
        dilations=list(window.dilations),
        group=window.group,
    )


vjp("ConvTranspose", _conv_transpose_input, None, _conv_bias)
