"""Counting calibration scores block by block gives what comparing with each of them gives."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sparsense.class_calibration import calibrate_by_class, class_p_values
from sparsense.detector import ranks
from sparsense.detector.close import class_p_value
from sparsense.detector.micro_batch import micro_batch
from sparsense.graph import Builder, Session

SIZES = [*range(1, 40), 63, 64, 65, 99, 100, 101, 400, 441, 999, 1000]
RANDOM = np.random.default_rng(0)


def graph_of(**values: tuple[ir.DataType, list[str | int]]) -> tuple[ir.Model, Builder]:
    inputs = [ir.val(name, dtype, shape) for name, (dtype, shape) in values.items()]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": 18}, name="ranks")
    return ir.Model(graph, ir_version=9), Builder(graph)


def counted(table: np.ndarray, scores: np.ndarray) -> np.ndarray:
    model, op = graph_of(score=(ir.DataType.FLOAT, ["N"]))
    (found,) = Session(model, [ranks.exceeding(op, model.graph.inputs[0], table)], threads=1)(scores)
    return found


@pytest.mark.parametrize("direct", [0, 10**6])
@pytest.mark.parametrize("size", SIZES)
def test_the_count_is_that_of_a_sorted_search(size: int, direct: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties within and across blocks, scores between and beyond them, infinite ones on both sides."""
    monkeypatch.setattr(ranks, "DIRECT", direct)
    for table in (
        RANDOM.normal(size=size).astype(np.float32),
        RANDOM.integers(0, max(size // 7, 1) + 1, size).astype(np.float32),
        np.zeros(size, np.float32),
        RANDOM.choice(np.array([-np.inf, 0, 1, np.inf], np.float32), size),
    ):
        ascending = np.sort(table)
        near = np.concatenate([np.nextafter(table, np.float32(way)) for way in (-9, 9)])
        scores = np.concatenate([table, near, np.array([-np.inf, np.inf, -1e30, 1e30], np.float32)])
        expected = size - np.searchsorted(ascending, scores, side="left")
        np.testing.assert_array_equal(counted(ascending, scores), expected)


@pytest.mark.parametrize("direct", [0, 10**6])
def test_a_score_that_is_not_a_number_is_above_everything(direct: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "DIRECT", direct)
    for size in (1, 10, 1000):
        assert counted(np.arange(size, dtype=np.float32), np.array([np.nan], np.float32)) == 0


@pytest.mark.parametrize("direct", [0, 10**6])
@pytest.mark.parametrize("counts", [(30, 30), (200, 200), (240, 140, 20), (20, 900, 0, 80)])  # 200: ten full blocks
def test_the_count_within_a_class(counts: tuple[int, ...], direct: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes with few calibration inputs, or with none, are compared with all."""
    monkeypatch.setattr(ranks, "DIRECT", direct)
    scores = np.sort(RANDOM.integers(0, 50, sum(counts))).astype(np.float32)
    classes = RANDOM.permutation(np.repeat(np.arange(len(counts)), counts))
    found = calibrate_by_class(scores, classes, 0.05, classes=len(counts), pool=True)
    asked = np.repeat(np.array([*np.arange(-1, 51, 0.5), -np.inf, np.inf], np.float32), len(counts))
    of = np.arange(len(asked)) % len(counts)
    model, op = graph_of(score=(ir.DataType.FLOAT, ["N"]), predicted=(ir.DataType.INT64, ["N"]))
    table = op.constant(scores, "scores"), op.constant(classes.astype(np.int64), "classes")
    p = class_p_value(op, tuple(model.graph.inputs), table, np.array(found.pooled))
    (p_values,) = Session(model, [p], threads=1)({"score": asked, "predicted": of})
    np.testing.assert_allclose(p_values, class_p_values(found, (scores, classes), asked, of), rtol=1e-6)


def test_a_large_table_needs_little_memory() -> None:
    """A hundred thousand scores: no value has as many numbers for one sample."""
    model, op = graph_of(score=(ir.DataType.FLOAT, ["N"]))
    op.Identity(ranks.exceeding(op, model.graph.inputs[0], np.arange(100_000, dtype=np.float32)))
    assert micro_batch(model) == 1024
