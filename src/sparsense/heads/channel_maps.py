"""The values of a layer's output as [N, channels, positions], wherever its samples and channels lie."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsense.autodiff import Layer
from sparsense.autodiff.samples import samples_first
from sparsense.autodiff.shapes import dims, rank
from sparsense.graph.build import Builder


def channel_maps(op: Builder, value: ir.Value, layer: Layer) -> ir.Value:
    """A value shaped like the layer's output, its channels behind the samples: a transformer's have them last.

    The parts of a sample (windows, frames, the uses of a shared weight) are positions: [N, C, ...].
    """
    channel = layer.channel_axis
    if layer.order == "first":
        return value if channel == 1 else op.Transpose(value, perm=[0, channel, *layer.position_axes])
    if layer.order == "second":
        rows = samples_first(op, value, layer.order)
        return op.Transpose(rows, perm=[0, channel, *layer.position_axes])
    batch, parts = op.Shape(op.graph.inputs[0], end=1), np.asarray([-1])
    leading = (batch, parts) if layer.order == "outer" else (parts, batch)
    split = op.Reshape(value, op.Concat(*leading, op.Shape(value, start=1), axis=0))
    sample, part = (0, 1) if layer.order == "outer" else (1, 0)
    others = [axis + 1 for axis in range(1, rank(value)) if axis != channel]
    turned = op.Transpose(split, perm=[sample, channel + 1, part, *others])
    return op.Reshape(turned, [0, dims(layer.output)[channel], -1])


def channel_means(op: Builder, value: ir.Value, layer: Layer) -> ir.Value:
    """The mean over the positions of such a value, [N, C]."""
    if layer.order == "first":
        return op.ReduceMean(value, layer.position_axes, keepdims=0) if layer.position_axes else value
    maps = channel_maps(op, value, layer)
    return op.ReduceMean(maps, list(range(2, rank(value) if layer.order == "second" else 3)), keepdims=0)
