"""Masks are exact at and around their bounds, in the types that use ramps and those that compare."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sparsense.autodiff.masks import above, at_least, at_most, complement, is_step
from sparsense.graph.build import Builder
from sparsense.graph.run import Session

BOUNDS = [0.0, 6.0, -3.0, 0.5, 1e-3, -7.3, 1e5, 1e-30, 3e30]


def around(bound: float, dtype: type) -> np.ndarray:
    """The bound, its three neighbours on both sides, and what is far away; no denormal numbers."""
    values = [dtype(bound)]
    low = high = dtype(bound)
    for _ in range(3):
        low, high = np.nextafter(low, dtype(-np.inf)), np.nextafter(high, dtype(np.inf))
        values += [low, high]
    values += [dtype(v) for v in (0.0, -0.0, 1.2e-38, -1.2e-38, 1e30, -1e30, np.inf, -np.inf, 1, -1)]
    array = np.asarray(values)
    return array[(array == 0) | (np.abs(array) >= np.finfo(np.float32).tiny)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bound", BOUNDS)
def test_masks_are_exact(bound: float, dtype: type) -> None:
    bound = float(np.float32(bound))
    x = ir.val("x", ir.DataType.from_numpy(np.dtype(dtype)), ["N"])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="masks")
    op = Builder(graph)
    masks = [above(op, x, bound), at_least(op, x, bound), at_most(op, x, bound)]
    values = around(bound, dtype)
    found = Session(ir.Model(graph, ir_version=10), masks)(values)
    for mask, wanted in zip(found, (values > bound, values >= bound, values <= bound), strict=True):
        np.testing.assert_array_equal(mask, wanted.astype(dtype))


def test_a_mask_is_a_step_and_an_activation_is_not() -> None:
    x = ir.val("x", ir.DataType.FLOAT, ["N"])
    op = Builder(ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="steps"))
    assert is_step(above(op, x, 0.0).producer())  # type: ignore[arg-type]
    assert not is_step(op.HardSigmoid(x, alpha=0.2).producer())
    assert not is_step(complement(op, x).producer())  # type: ignore[arg-type]
