"""How many samples to run at once, so that what lies between two nodes stays in the cache."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from sparsense.autodiff.shapes import all_known, dims
from sparsense.graph.grouped import GROUPS

CACHE = 2 * 2**20
"""Bytes of the largest intermediate value."""
FEWEST, MOST = 8, 1024
"""Convolutions of fewer samples are slower than the cache is fast; more samples gain nothing."""


def micro_batch(model: ir.Model) -> int:
    """The number of samples for which the largest intermediate value has 2 MiB, between 8 and 1,024.

    Per-sample gradients are larger than activations: run over 64 samples at once, a ResNet-20 with the sensitivities of
    all weights takes a tenth longer per sample than over 8. Values whose sizes are free are not counted. Of a detector
    of groups it is the number of groups, at least 1.
    """
    batch, *sizes_of_one = dims(model.graph.inputs[0])
    group = sizes_of_one[0] if batch == GROUPS else 1
    single = "N" if batch == GROUPS else batch
    sizes = [_bytes(output) for node in model.graph for output in node.outputs if _is_per_sample(output, single)]
    return max(min(max(CACHE // max(sizes, default=CACHE), FEWEST), MOST) // group, 1)


def _is_per_sample(value: ir.Value, batch: object) -> bool:
    return bool(value.shape) and dims(value)[0] == batch and all_known(dims(value)[1:])


def _bytes(value: ir.Value) -> int:
    """Of one sample."""
    width = value.dtype.itemsize if value.dtype else 4
    return max(int(prod(dims(value)[1:]) * width), 1)
