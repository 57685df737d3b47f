"""How many samples a detector runs at once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sparsense.detector.micro_batch import micro_batch
from sparsense.graph.build import Builder


@pytest.mark.parametrize(("size", "fits"), [(4, 1024), (4096, 128), (10**6, 8)])
def test_as_many_samples_as_fit_into_two_mebibytes(size: int, fits: int) -> None:
    """The largest value is float32 [N, size]; a constant of any size does not count."""
    graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, ["N", 1])], [], nodes=[], opset_imports={"": 20})
    op = Builder(graph)
    wide = op.Expand(graph.inputs[0], [1, size])
    wide.shape = ir.Shape([graph.inputs[0].shape[0], size])
    op.Identity(op.Expand(op.constant(np.zeros(1, np.float32)), [10**7]))
    assert micro_batch(ir.Model(graph, ir_version=10)) == fits
