"""Rows that are streamed more than once: the same rows, in memory that does not grow with their number."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sparsense.errors import InputError
from sparsense.heads import HEADS, spool
from sparsense.heads.head import Head
from sparsense.heads.spool import spooled

CLASSES = 20


def cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("block", [16, 1000, 10**6])
def test_rows_come_back_as_they_were(size: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "BLOCK", block)
    monkeypatch.setattr(spool, "IN_MEMORY", 200)
    rows = np.random.default_rng(0).standard_normal((23, 5)).astype(np.float32)
    chosen = np.random.default_rng(1).random(23) < 0.4
    with spooled(cut(rows, size)) as kept:
        assert len(kept) == 23
        np.testing.assert_array_equal(kept.means, rows.mean(1))
        first, again = kept.blocks(), kept.blocks(chosen, slice(1, 4))
        next(first)  # two walks at once do not disturb each other
        np.testing.assert_array_equal(np.concatenate(list(again)), rows[chosen, 1:4])
        np.testing.assert_array_equal(np.concatenate([*kept.blocks()]), rows)


def test_rows_that_are_not_finite_are_refused() -> None:
    with (
        pytest.raises(InputError, match="found 1 of 2 rows with NaN or infinity"),
        spooled([np.array([[1.0], [np.nan]])]),
    ):
        pass


def fresh(name: str) -> Head:
    """A head as if it had observed a network: rows are 60 row sums and the logits, twice logits, or logits."""
    head: Any = HEADS[name](**({"members": ["openmax", "temperature_scaling"]} if name == "fusion" else {}))
    if name == "gram":
        head._channels, head._classes = [12], CLASSES
    if name == "fusion":
        head._widths = [CLASSES, CLASSES]
    return head


WIDTHS = {"gram": 60 + CLASSES, "fusion": 2 * CLASSES, "openmax": CLASSES, "temperature_scaling": CLASSES}


def observations(width: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.integers(0, CLASSES, count)
    rows = random.standard_normal((count, width)).astype(np.float32)
    for start in range(width % CLASSES, width - CLASSES + 1, CLASSES):
        rows[np.arange(count), start + labels] += 4
    return rows, labels


@pytest.mark.parametrize("name", list(WIDTHS))
def test_batches_of_any_size_teach_the_same(name: str) -> None:
    rows, labels = observations(WIDTHS[name], 400)
    states = [fresh(name).fit(cut(rows, size), labels).state() for size in (1, 64, 400)]
    for other in states[1:]:
        for key, value in states[0].items():
            np.testing.assert_allclose(other[key], value, rtol=1e-9, err_msg=key)


@pytest.mark.parametrize("name", list(WIDTHS))
def test_memory_does_not_grow_with_the_fitting_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "IN_MEMORY", 2**16)
    monkeypatch.setattr(spool, "BLOCK", 2**16)
    monkeypatch.setattr("sparsense.heads.temperature_scaling.ROWS", 500)
    peak(name, 1_000)  # what is imported on the way stays
    # far apart, as a peak varies by some 100 kB from run to run
    few, many = (peak(name, count) for count in (2_000, 50_000))
    assert many - few < 48_000 * 40  # some numbers for each row are kept, not the rows


def peak(name: str, count: int) -> int:
    rows, labels = observations(WIDTHS[name], count)
    head = fresh(name)

    def batches() -> Iterator[np.ndarray]:
        for start in range(0, count, 100):
            yield rows[start : start + 100].copy()

    tracemalloc.start()
    try:
        head.fit(batches(), labels)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
