"""The graph form of a table's encoding equals the numpy form, for any mixture of numbers, words and gaps."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsense.data.columns import Column, Encoding
from sparsense.graph.build import Builder
from sparsense.graph.encode import encoded
from sparsense.graph.run import Session

finite = st.floats(-1e6, 1e6, width=32)


@st.composite
def columns(draw):
    if draw(st.booleans()):
        return Column("n", None, draw(finite), draw(finite), draw(st.floats(0.125, 1e3, width=32)))
    count = draw(st.integers(1, 4))
    return Column("w", tuple("abcd"[:count]), float(draw(st.integers(-1, count - 1))))


@st.composite
def tables(draw):
    encoding = Encoding(tuple(draw(st.lists(columns(), min_size=1, max_size=4))))
    cells = [
        st.one_of(st.just(np.nan), finite if column.levels is None else st.integers(-1, 4).map(float))
        for column in encoding.columns
    ]
    rows = draw(st.lists(st.tuples(*cells), min_size=1, max_size=5))
    return encoding, np.array(rows, np.float32)


@settings(max_examples=40, deadline=None)
@given(tables())
def test_nodes_and_numpy_agree(table):
    encoding, rows = table
    given_rows = ir.val("rows", ir.DataType.FLOAT, ["N", len(encoding.columns)])
    graph = ir.Graph([given_rows], [], nodes=[], opset_imports={"": 18}, name="encode")
    value = encoded(Builder(graph), given_rows, encoding)
    value.shape = ir.Shape(["N", len(encoding.features)])
    graph.outputs.append(value)
    (found,) = Session(ir.Model(graph, ir_version=10))(rows)
    np.testing.assert_allclose(found, encoding.apply(rows), rtol=1e-6)


def test_numpy_form_by_hand():
    encoding = Encoding((Column("size", None, 5.0, 4.0, 2.0), Column("kind", ("", "a", "b"), 0.0)))
    rows = np.array([[8, 2], [np.nan, np.nan], [4, -1]], np.float32)
    np.testing.assert_array_equal(encoding.apply(rows), [[2, 0, 0, 1], [0.5, 1, 0, 0], [0, 0, 0, 0]])
