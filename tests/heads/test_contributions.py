"""Parts of a score: which numbers belong to which part."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sparsense.autodiff import weighted_layers
from sparsense.detector import fit_head
from sparsense.graph import Builder, Session
from sparsense.heads import HEADS
from sparsense.heads.contributions import channels_of, per_group
from tiny_classifier import tiny_data, tiny_graph, tiny_network


def test_neighbouring_columns_are_summed() -> None:
    graph = ir.Graph([ir.val("v", ir.DataType.FLOAT, ["N", 6])], [], nodes=[], opset_imports={"": 20}, name="groups")
    value = per_group(Builder(graph), graph.inputs[0], [1, 2, 3])
    (found,) = Session(ir.Model(graph, ir_version=10), [value], threads=1)(
        np.arange(12, dtype=np.float32).reshape(2, 6)
    )
    assert found.tolist() == [[0, 1 + 2, 3 + 4 + 5], [6, 7 + 8, 9 + 10 + 11]]


def test_layers_have_as_many_channels_as_their_weights_say() -> None:
    layers = weighted_layers(tiny_graph())
    assert [layer.name for layer in layers] == ["stem", "block", "head"]
    assert channels_of(layers) == [6, 6, 4]


@pytest.mark.parametrize(("name", "widths"), [("sensnorm_gates", [6, 6, 4]), ("sensnorm_profile", [3, 3, 3])])
def test_what_a_layer_adds_is_the_sum_over_its_numbers(name: str, widths: list[int]) -> None:
    head = HEADS[name](by_class=False)
    scored = fit_head(tiny_graph(), head, tiny_data("fit", 120, seed=0), preprocessing=tiny_network().preprocessing)
    assert scored.observed is not None
    parts = head.explain(scored.network, scored.observed)
    session = Session(scored.network.model, [scored.observed, parts.value], threads=1)
    observed, found = session(tiny_data("x", 12, seed=4).inputs)
    state = head.state()
    centred = observed - state["means"]
    terms = centred * (centred @ (state["whitening"].T @ state["whitening"]))
    expected = np.add.reduceat(terms, np.cumsum([0, *widths[:-1]]), axis=1)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4 * np.abs(expected).max())
