"""Fitting a head: what is refused, what is left untouched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import onnx_ir as ir
import pytest

from sparsense.data.dataset import Dataset
from sparsense.detector import Scored, fit_head
from sparsense.errors import ExportError, InputError
from sparsense.graph import Builder, ForwardGraph
from sparsense.heads import HEADS, Head
from tiny_classifier import tiny_data, tiny_graph, tiny_network


class Mean(Head):
    """Not registered: the mean logit, minus the mean of what was seen."""

    name = "mean"

    def observe(self, network: ForwardGraph) -> ir.Value:
        return network.output

    def fit(self, observations: Iterable[Any], labels: Any = None) -> Self:
        self.batches = [np.asarray(batch) for batch in observations]
        self.mean_ = np.concatenate(self.batches).mean()
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        return op.Sub(op.ReduceMean(observed, [1], keepdims=0), self.mean_.astype(np.float32))


def fit(head: Head, data: Dataset, **options: Any) -> Scored:
    return fit_head(tiny_graph(), head, data, preprocessing=tiny_network().preprocessing, **options)


def test_the_head_sees_every_input_once_and_in_order() -> None:
    head, data = Mean(), tiny_data("fit", 50, seed=0)
    scored = fit(head, data, batch_size=16)
    assert [len(batch) for batch in head.batches] == [16, 16, 16, 2]
    logits = np.concatenate(head.batches)
    np.testing.assert_allclose(scored.scores(data.inputs), logits.mean(1) - logits.mean(), atol=1e-5)


def test_the_given_graph_is_not_touched() -> None:
    before = [node.name for node in tiny_graph().model.graph]
    fit(HEADS["sensnorm"](), tiny_data("fit", 20, seed=0))
    assert [node.name for node in tiny_graph().model.graph] == before


def test_progress_counts_every_input() -> None:
    seen: list[tuple[str, int, int]] = []
    fit(Mean(), tiny_data("fit", 50, seed=0), batch_size=20, progress=lambda *args: seen.append(args))
    assert seen == [("fitting on fit", 20, 50), ("fitting on fit", 40, 50), ("fitting on fit", 50, 50)]


def test_labels_are_asked_for_by_the_head_that_needs_them() -> None:
    data = Dataset("unlabelled", tiny_data("fit", 20, seed=0).inputs)
    with pytest.raises(InputError, match=r"head 'mahalanobis': it needs labels, and 'unlabelled' has none"):
        fit(HEADS["mahalanobis"](), data)
    assert np.isfinite(fit(HEADS["sensnorm"](), data).scores(data.inputs)).all()  # uses labels, but can do without


def test_a_head_for_another_task_is_refused() -> None:
    head = Mean()
    head.task = "reconstruction"  # type: ignore[misc]
    with pytest.raises(InputError, match="it is for a reconstruction, and this network is a classifier"):
        fit(head, tiny_data("fit", 20, seed=0))


def test_a_score_of_another_shape_is_refused() -> None:
    class Columns(Mean):
        def score(self, op: Builder, observed: ir.Value) -> ir.Value:
            return op.Neg(observed)

    with pytest.raises(ExportError, match=r"head 'mean': expected float32 scores \[N\], found FLOAT"):
        fit(Columns(), tiny_data("fit", 20, seed=0))
