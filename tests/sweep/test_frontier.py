"""The Pareto front against brute force, and the recommendation against cases with a known answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsense.errors import InputError
from sparsense.sweep.candidates import Candidate
from sparsense.sweep.entries import Entry
from sparsense.sweep.frontier import front, pareto, recommend, reference

ROWS = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.tuples(*[st.integers(-3, 3)] * width), min_size=1, max_size=25)
)


def beaten(row, others):
    """By the words of the definition."""
    return any(
        all(a <= b for a, b in zip(other, row, strict=True)) and any(a < b for a, b in zip(other, row, strict=True))
        for other in others
    )


@given(ROWS)
def test_the_front_is_what_nobody_beats(rows):
    assert pareto(rows).tolist() == [not beaten(row, rows) for row in rows]


@given(ROWS)
def test_somebody_on_the_front_beats_everybody_else(rows):
    kept = pareto(rows)
    best = [row for row, keep in zip(rows, kept, strict=True) if keep]
    assert best
    assert all(beaten(row, best) for row, keep in zip(rows, kept, strict=True) if not keep)


@given(ROWS, st.randoms())
def test_the_front_does_not_depend_on_order_or_scale(rows, random):
    order = list(range(len(rows)))
    random.shuffle(order)
    values = np.asarray(rows, float)
    np.testing.assert_array_equal(pareto(values[order]), pareto(values)[order])
    np.testing.assert_array_equal(pareto(values * 7 + 100), pareto(values))


def test_a_known_front():
    circle = [(1 - np.sin(t), 1 - np.cos(t)) for t in np.linspace(0, np.pi / 2, 20)]
    inside = [(x + 0.2, y + 0.2) for x, y in circle]
    assert pareto([*circle, *inside]).tolist() == [True] * 20 + [False] * 20


@pytest.mark.parametrize("rows", [[1.0, 2.0], [[1.0, np.nan]]])
def test_what_has_no_order_is_refused(rows):
    with pytest.raises(InputError, match="Pareto front needs numbers"):
        pareto(rows)


def entry(variant="pruned", *, head="energy", accuracy=0.9, auroc=0.8, size=100, time=1.0, mac=50):
    candidate = Candidate(
        variant=variant, head=head, file="detector.onnx", accuracy=accuracy, auroc=auroc, bytes=size, time=time,
        parameters=10, multiply_adds=mac,
    )  # fmt: skip
    return Entry("p", {"prune.sparsity": size}, "folder", candidate)


DENSE = entry("dense", accuracy=0.90, auroc=0.80, size=1000, time=2.0, mac=900)


def test_the_cheapest_within_the_margin_is_recommended():
    too_bad = entry(accuracy=0.894, auroc=0.9, size=10, time=0.1, mac=1)
    blind = entry(accuracy=0.95, auroc=0.794, size=20, time=0.2, mac=2)
    slow = entry(accuracy=0.896, auroc=0.796, size=30, time=1.9, mac=40)
    large = entry(accuracy=0.9, auroc=0.8, size=300, time=0.9, mac=30)
    found = {cost: recommend([DENSE, too_bad, blind, slow, large], cost) for cost in ("bytes", "time", "multiply_adds")}
    assert found["bytes"].entry is slow
    assert found["time"].entry is large
    assert found["multiply_adds"].entry is large
    assert recommend([DENSE, too_bad, blind], "bytes") is None
    assert recommend([DENSE, too_bad, blind], "bytes", margin=0.007).entry is too_bad
    assert recommend([slow], "bytes") is None  # nothing dense to hold it against


def test_exactly_the_margin_is_within_it():
    assert recommend([DENSE, entry(accuracy=0.895, auroc=0.795)], "bytes") is not None


def test_the_reference_is_the_best_dense_detector():
    better = entry("dense", head="mahalanobis", auroc=0.95)
    assert reference([DENSE, better, entry(auroc=1.0)]) is better.candidate
    assert recommend([DENSE, better, entry(auroc=0.85)], "bytes") is None


def test_a_network_without_accuracy_is_judged_by_auroc_alone():
    dense = entry("dense", accuracy=None, auroc=0.8)
    assert recommend([dense, entry(accuracy=None, auroc=0.8)], "bytes") is not None
    assert recommend([dense, entry(accuracy=None, auroc=0.7)], "bytes") is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=15))
def test_the_front_in_quality_and_cost_is_sorted_and_rises(pairs):
    found = front([entry(accuracy=q / 10, size=s) for q, s in pairs], quality="accuracy", cost="bytes")
    numbers = [(e.candidate.bytes, e.candidate.accuracy) for e in found]
    assert numbers == sorted(numbers)
    distinct = sorted(set(numbers))
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(distinct))
    for quality, size in pairs:
        assert any(s <= size and q >= quality / 10 for s, q in numbers)


def test_entries_without_the_number_are_left_out():
    lost = entry(auroc=None)
    assert front([lost], quality="auroc", cost="bytes") == []
    assert [lost] == front([lost], quality="accuracy", cost="bytes")
