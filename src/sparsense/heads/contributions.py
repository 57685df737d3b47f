"""What a score is made of: parts with names that add up to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsense.autodiff import Layer
from sparsense.autodiff.shapes import dims
from sparsense.graph.build import Builder

TINY = 1e-30


@dataclass(frozen=True)
class Contributions:
    """Parts of a score.

    Attributes:
        kind: What the parts are: `layers`, `channels`, `features`, `members` or `terms`.
        names: One for each part, [P].
        value: `[N, P]`; a row adds up to the score, and a part may be negative.
    """

    kind: str
    names: Sequence[str]
    value: ir.Value


def per_group(op: Builder, values: ir.Value, widths: Sequence[int]) -> ir.Value:
    """Sums of neighbouring columns, [N, sum of widths] -> [N, number of widths]."""
    return op.MatMul(values, _members(widths))


def shared_out(op: Builder, parts: ir.Value, sizes: ir.Value, widths: Sequence[int]) -> ir.Value:
    """Each part divided among neighbouring columns in proportion to their sizes, [N, sum of widths].

    Args:
        op: Builder.
        parts: [N, number of widths].
        sizes: Not negative, [N, sum of widths]; where all of a part are 0, its columns get the same.
        widths: How many columns belong to each part.
    """
    sizes = op.Add(sizes, TINY)
    scale = op.Div(parts, per_group(op, sizes, widths))
    return op.Mul(sizes, op.MatMul(scale, np.ascontiguousarray(_members(widths).T)))


def _members(widths: Sequence[int]) -> np.ndarray:
    return np.repeat(np.eye(len(widths), dtype=np.float32), widths, axis=0)


def names_of(layers: Sequence[Layer]) -> list[str]:
    """What the parts are called when they are layers."""
    return [layer.name for layer in layers]


def channels_of(layers: Sequence[Layer]) -> list[int]:
    """How many output channels each layer has."""
    return [int(dims(layer.output)[layer.channel_axis]) for layer in layers]


def channel_names(layers: Sequence[Layer]) -> list[str]:
    """What the parts are called when they are output channels, counted from 0."""
    return [
        f"{layer.name}[{i}]" for layer, count in zip(layers, channels_of(layers), strict=True) for i in range(count)
    ]
