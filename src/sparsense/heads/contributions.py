"""What a score is made of: parts with names that add up to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsense.autodiff import Layer
from sparsense.autodiff.shapes import dims
from sparsense.graph.build import Builder


@dataclass(frozen=True)
class Contributions:
    """Parts of a score.

    Attributes:
        kind: What the parts are: `layers`, `features`, `members` or `terms`.
        names: One for each part, [P].
        value: `[N, P]`; a row adds up to the score, and a part may be negative.
    """

    kind: str
    names: Sequence[str]
    value: ir.Value


def per_group(op: Builder, values: ir.Value, widths: Sequence[int]) -> ir.Value:
    """Sums of neighbouring columns, [N, sum of widths] -> [N, number of widths]."""
    members = np.repeat(np.eye(len(widths), dtype=np.float32), widths, axis=0)
    return op.MatMul(values, members)


def names_of(layers: Sequence[Layer]) -> list[str]:
    """What the parts are called when they are layers."""
    return [layer.name for layer in layers]


def channels_of(layers: Sequence[Layer]) -> list[int]:
    """How many output channels each layer has."""
    return [int(dims(layer.output)[layer.channel_axis]) for layer in layers]
