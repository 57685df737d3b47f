"""The float64 evaluation of a graph, where onnx's reference implementation falls short of ONNX."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sparsense.detector.double import Double
from sparsense.graph import Builder, Session


@pytest.mark.parametrize(("axis", "shape"), [(-1, (4, 1)), (1, (4, 80)), (0, (3, 100)), (-2, (2, 7)), (1, (2, 5))])
def test_elements_are_gathered_along_any_axis_and_any_number_of_them(axis: int, shape: tuple[int, int]) -> None:
    graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, [4, 100])], [], nodes=[], opset_imports={"": 20}, name="gather")
    random = np.random.default_rng(0)
    gathered = Builder(graph).GatherElements(graph.inputs[0], random.integers(-3, 4, shape), axis=axis)
    rows, model = random.normal(size=(4, 100)).astype(np.float32), ir.Model(graph, ir_version=10)
    (found,), (expected,) = Double(model, [gathered])(rows), Session(model, [gathered])(rows)
    np.testing.assert_array_equal(found, expected)
