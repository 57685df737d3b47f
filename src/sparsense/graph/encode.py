"""The rows of a table as a network sees them: gaps filled, numbers scaled, words at their places, in nodes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsense.data.columns import Encoding
from sparsense.graph.build import Builder


def encoded(op: Builder, rows: ir.Value, encoding: Encoding) -> ir.Value:
    """The graph form of `Encoding.apply`: `[N, columns]` -> `[N, features]`."""
    own, level, mean, std = encoding.parts()
    fill = np.array([[column.fill for column in encoding.columns]], np.float32)
    filled = op.Where(op.IsNaN(rows), fill, rows)
    if len(own) != len(encoding.columns) or not np.isnan(level).all():
        filled = op.Gather(filled, own, axis=1)
    scaled = op.Div(op.Sub(filled, mean[None]), std[None])
    if np.isnan(level).all():
        return scaled
    places = np.nan_to_num(level, nan=0.0)[None]
    ones = op.Cast(op.Equal(filled, places), to=int(ir.DataType.FLOAT))
    return op.Where(np.isnan(level)[None], scaled, ones)
