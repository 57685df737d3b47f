"""Convolutions: the gradient of the input is again a convolution, in a layout that the runtime likes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.rule import Call, vjp
from sparsense.autodiff.rules.window import Axis, Window
from sparsense.autodiff.shapes import all_known, dims, dtype_of, pad_or_crop, rank
from sparsense.graph.build import Builder


def convolve_back(op: Builder, delta: ir.Value, like: ir.Value, weight: ir.Value, window: Window) -> ir.Value:
    """The adjoint of `Conv(., weight)`: spread every output's gradient over the inputs that made it.

    dx[i, h] = sum over o, j of W[o, i, j] * delta[o, q],   q = (h + begin - j * dilation) / stride where whole

    With stride 1 this is one convolution with the flipped, transposed kernel. With a larger stride it is a
    `ConvTranspose`, except for groups of channels, for which ONNX Runtime's is slow, and for free sizes: there every
    residue of h modulo the stride sees its own small kernel; one convolution for each makes the residues as extra
    channels, and they are then woven together (sub-pixel form). Kernels are rearranged by nodes on the constant, which
    every runtime folds when it loads the file, so that the weights are stored once.

    Args:
        op: Builder.
        delta: `[N, O, *Q]`.
        like: The input of the convolution, `[N, I, *H]`: gives the sizes.
        weight: `[O, I / group, *kernel]`.
        window: The convolution's geometry.
    """
    strided, known = max(window.strides) > 1, all_known([*dims(delta)[2:], *dims(like)[2:]])
    if strided and known and window.group == 1:
        return into_blocks(op, _convolve_transposed(op, delta, like, weight, window))
    kernel = _adjoint(op, weight, window.group)
    if not strided:
        pads = [axis.reach - axis.begin for axis in window.axes] + [axis.reach - axis.end for axis in window.axes]
        return _conv(op, delta, _flip(op, kernel, range(2, rank(kernel))), pads, window.group, window.dilations)
    return into_blocks(op, _convolve_residues(op, delta, like, kernel, window))


def _convolve_transposed(op: Builder, delta: ir.Value, like: ir.Value, weight: ir.Value, window: Window) -> ir.Value:
    """As the one operator that is defined as the adjoint; inputs that no output saw are its `output_padding`."""
    sizes = zip(dims(like)[2:], dims(delta)[2:], window.axes, strict=True)
    unseen = [n - ((q - 1) * axis.stride + axis.reach + 1 - axis.begin - axis.end) for n, q, axis in sizes]
    return op.ConvTranspose(delta, weight, **window.attributes(), output_padding=unseen)


def into_blocks(op: Builder, value: ir.Value, scale: float = 1.0) -> ir.Value:
    """A value times a number, by a convolution that brings it into the blocked layout of ONNX Runtime.

    Sums, masks and convolutions that follow then stay in that layout; without it every one of them would be
    rearranged back and forth.
    """
    channels = dims(value)[1]
    if rank(value) != 4 or value.dtype != ir.DataType.FLOAT or channels % 8:
        return value if scale == 1 else op.Mul(value, scale)
    return op.Conv(value, np.full((channels, 1, 1, 1), scale, np.float32), kernel_shape=[1, 1], group=channels)


def _adjoint(op: Builder, weight: ir.Value, group: int) -> ir.Value:
    """[O, I/g, ...] -> [I, O/g, ...]: in and out channels exchanged within each group."""
    out, per_group, *kernel = dims(weight)
    if out == group and per_group == 1:
        return weight
    if group == 1:
        return op.Transpose(weight, perm=[1, 0, *range(2, rank(weight))])
    blocks = op.Reshape(weight, [group, out // group, per_group, *kernel])
    swapped = op.Transpose(blocks, perm=[0, 2, 1, *range(3, rank(weight) + 1)])
    return op.Reshape(swapped, [group * per_group, out // group, *kernel])


def _flip(op: Builder, value: ir.Value, axes: Sequence[int]) -> ir.Value:
    """Reverse the order along some axes."""
    axes = [axis for axis in axes if dims(value)[axis] != 1]
    if not axes:
        return value
    ends = [np.iinfo(np.int64).min] * len(axes)
    return op.Slice(value, [-1] * len(axes), ends, axes, [-1] * len(axes))


def _conv(
    op: Builder,
    x: ir.Value,
    kernel: ir.Value,
    pads: Sequence[int],
    group: int,
    dilations: Sequence[int] | None = None,
) -> ir.Value:
    """A stride-1 convolution; negative padding cuts the input instead."""
    shape, half = dims(kernel)[2:], len(pads) // 2
    cut = [min(pad, 0) for pad in pads]
    x = pad_or_crop(op, x, range(2, 2 + half), cut[:half], cut[half:])
    return op.Conv(
        x,
        kernel,
        kernel_shape=shape,
        pads=[max(pad, 0) for pad in pads],
        dilations=list(dilations or [1] * half),
        group=group,
    )


# --- strides: residues as channels -----------------------------------------------------------------------------------


def _convolve_residues(op: Builder, delta: ir.Value, like: ir.Value, kernel: ir.Value, window: Window) -> ir.Value:
    """One convolution for all residues of the input position modulo the stride, woven together afterwards.

    On one axis, input s * m + r receives from output m + o the kernel element j = r + begin - s * o. Padding the
    kernel at both ends to whole multiples of s and cutting it into rows of s puts element (o, r) at row -o.
    """
    if any(axis.dilation > 1 for axis in window.axes):
        kernel = _zero_insert(op, kernel, window.dilations)
    axes = [Axis(axis.reach + 1, axis.stride, axis.begin, axis.end, 1) for axis in window.axes]
    kernels = _by_residue(op, _pad_to(op, kernel, axes), axes)
    begins = [(axis.reach - axis.begin) // axis.stride for axis in axes]
    ends = [_end_padding(axis, dims(like)[2 + i], dims(delta)[2 + i]) for i, axis in enumerate(axes)]
    if window.group == 1:
        count, into, *rest = dims(kernels)
        phases = _conv(op, delta, op.Reshape(kernels, [count * into, *rest]), [*begins, *ends], 1)
    else:  # a depthwise convolution with several outputs per channel would leave the blocked layout
        each = [op.Gather(kernels, np.asarray(residue), axis=0) for residue in range(dims(kernels)[0])]
        phases = op.Concat(*(_conv(op, delta, one, [*begins, *ends], window.group) for one in each), axis=1)
    return _fit(op, weave(op, phases, window.strides), like)


def _highest_offset(axis: Axis) -> int:
    """The largest o for which input s * m + r sees output m + o."""
    return -(-axis.begin // axis.stride)


def _pad_to(op: Builder, kernel: ir.Value, axes: Sequence[Axis]) -> ir.Value:
    """Zeros around the kernel (a dilated one is cut to its reach) so that it falls into whole rows of `stride`."""
    begins = [axis.stride * _highest_offset(axis) - axis.begin for axis in axes]
    lengths = [axis.stride * _taps(axis) for axis in axes]
    ends = [n - b - k for n, b, k in zip(lengths, begins, dims(kernel)[2:], strict=True)]
    return pad_or_crop(op, kernel, range(2, rank(kernel)), begins, ends)


def _taps(axis: Axis) -> int:
    return _highest_offset(axis) + (axis.reach - axis.begin) // axis.stride + 1


def _by_residue(op: Builder, kernel: ir.Value, axes: Sequence[Axis]) -> ir.Value:
    """[I, O/g, *(taps * stride)] -> [prod(strides), I, O/g, *taps]; taps are reversed."""
    into, out = dims(kernel)[:2]
    split = [size for axis in axes for size in (_taps(axis), axis.stride)]
    rows = [2 + 2 * i for i in range(len(axes))]
    reversed_ = _flip(op, op.Reshape(kernel, [into, out, *split]), rows)
    moved = op.Transpose(reversed_, perm=[*(row + 1 for row in rows), 0, 1, *rows])
    return op.Reshape(moved, [prod(axis.stride for axis in axes), into, out, *map(_taps, axes)])


def _end_padding(axis: Axis, size: Any, made: Any) -> int:
    """So much that there is an output for every row of residues; free sizes get the largest need."""
    if isinstance(size, int) and isinstance(made, int):
        return -(-size // axis.stride) + _highest_offset(axis) - made
    smallest = max(axis.reach + 1 - axis.begin - axis.end, 1)
    candidates = range(smallest, smallest + axis.stride)
    return max(-(-n // axis.stride) + _highest_offset(axis) - axis.outputs(n) for n in candidates)


def weave(op: Builder, phases: ir.Value, strides: Sequence[int]) -> ir.Value:
    """[N, prod(strides) * C, *q] -> [N, C, *(q * strides)]: residues become neighbours again."""
    _, channels, *sizes = dims(phases)
    channels //= prod(strides)
    if len(strides) == 2 and all_known(sizes):
        return _weave_channels_last(op, phases, sizes, strides)
    if len(strides) == 2 and strides[0] == strides[1]:
        return op.DepthToSpace(phases, blocksize=strides[0])
    count, spatial = len(strides), op.Shape(phases, start=2)
    split = op.Reshape(phases, op.Concat(np.asarray([0, *strides, channels]), spatial, axis=0))
    pairs = zip(range(2 + count, 2 + 2 * count), range(1, 1 + count), strict=True)
    woven = op.Transpose(split, perm=[0, 1 + count, *(axis for pair in pairs for axis in pair)])
    result = op.Reshape(woven, op.Concat(np.asarray([0, channels]), op.Mul(spatial, np.asarray(strides)), axis=0))
    known = [n * s if isinstance(n, int) else None for n, s in zip(sizes, strides, strict=True)]
    result.shape = ir.Shape([*dims(phases)[:1], channels, *known])
    return result


def _weave_channels_last(op: Builder, phases: ir.Value, sizes: Sequence[int], strides: Sequence[int]) -> ir.Value:
    """The same where whole rows of channels move, which is several times faster than `DepthToSpace`.

    With channels last, residues of the last axis are neighbours already; those of the other are brought before it.
    The first and last transpositions cost nothing: ONNX Runtime makes them part of leaving and entering its layout.
    """
    (height, width), (down, across) = sizes, strides
    rows = op.Reshape(op.Transpose(phases, perm=[0, 2, 3, 1]), [0, height, width, down, -1])
    woven = op.Transpose(rows, perm=[0, 1, 3, 2, 4])
    whole = op.Reshape(woven, [0, height * down, width * across, -1])
    return op.Transpose(whole, perm=[0, 3, 1, 2])


def _zero_insert(op: Builder, value: ir.Value, steps: Sequence[int]) -> ir.Value:
    """Put step - 1 zeros behind every element, on every spatial axis."""
    count = len(steps)
    spaced = op.Unsqueeze(value, [3 + 2 * axis for axis in range(count)])
    ends = [0, 0, *(pad for step in steps for pad in (0, step - 1))]
    padded = op.Pad(spaced, [*[0] * (2 + 2 * count), *ends])
    known = dims(value)[2:]
    if all_known(known):
        return op.Reshape(padded, [0, 0, *(size * step for size, step in zip(known, steps, strict=True))])
    sizes = op.Mul(op.Shape(value, start=2), np.asarray(steps))
    return op.Reshape(padded, op.Concat(np.asarray([0, 0]), sizes, axis=0))


def _fit(op: Builder, value: ir.Value, like: ir.Value) -> ir.Value:
    """Cut or zero-fill at the end so that the spatial sizes are those of `like`."""
    have, want, axes = dims(value)[2:], dims(like)[2:], list(range(2, rank(like)))
    if all_known([*have, *want]):
        missing = [w - h for w, h in zip(want, have, strict=True)]
        return pad_or_crop(op, value, axes, [0] * len(axes), missing)
    shape, none = op.Shape(like, start=2), np.zeros(len(axes), np.int64)
    lacking = op.Max(op.Sub(shape, op.Shape(value, start=2)), none)
    before = np.zeros(rank(like) + 2, np.int64)
    return op.Slice(op.Pad(value, op.Concat(before, lacking, axis=0)), none, shape, axes)


def scatter_windows(op: Builder, delta: ir.Value, like: ir.Value, window: Window) -> ir.Value:
    """The adjoint of summing each window, channel by channel."""
    channels = dims(like)[1]
    weight = op.constant(np.ones((channels, 1, *window.kernel), dtype_of(like)))
    return convolve_back(op, delta, like, weight, Window(window.axes, channels))


# --- the rules -------------------------------------------------------------------------------------------------------


def _conv_input(op: Builder, d: Any, c: Call) -> Any:
    return convolve_back(op, d, c.x[0], c.x[1], Window.of(c, dims(c.x[1])[2:]))


def _bias(op: Builder, d: Any, c: Call) -> Any:
    return op.ReduceSum(d, [0, *range(2, rank(d))], keepdims=0)


def _conv_transpose_input(op: Builder, d: Any, c: Call) -> Any:
    """ConvTranspose is the adjoint of a convolution, so its adjoint is that convolution."""
    window = Window.of(c, dims(c.x[1])[2:])
    attributes = {**window.attributes(), "pads": [max(pad, 0) for pad in window.pads]}
    return _fit(op, op.Conv(d, c.x[1], **attributes, group=window.group), c.x[0])


vjp("Conv", _conv_input, None, _bias)
vjp("ConvTranspose", _conv_transpose_input, None, _bias)
