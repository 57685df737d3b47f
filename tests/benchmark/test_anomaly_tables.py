"""The tables of the anomaly benchmark: paired differences with intervals, ranks, means over cases by seed."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import rankdata, t

FILE = Path(__file__).parents[2] / "benchmarks" / "anomaly_rows" / "tables.py"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    import sys

    spec = spec_from_file_location("anomaly_tables", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    del sys.modules[spec.name]
    return module


def drawn(cases: int = 40, seeds: int = 3, gain: float = 2.0, spread: float = 1.0) -> dict[str, dict[str, list[float]]]:
    random = np.random.default_rng(0)
    found = {}
    for case in range(cases):
        plain = random.normal(80, 10, seeds)
        more = plain + gain + random.normal(0, spread) + random.normal(0, 0.1, seeds)
        found[str(case)] = {"plain": plain.tolist(), "more": more.tolist()}
    return found


def test_the_interval_of_a_difference_is_that_of_its_cases(tables):
    values = drawn()
    means = np.array([np.mean(row["more"]) - np.mean(row["plain"]) for row in values.values()])
    half = t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
    found = tables.difference(values, "more", "plain")
    assert found.mean == pytest.approx(means.mean())
    assert (found.low, found.high) == pytest.approx((means.mean() - half, means.mean() + half), abs=0.1)
    assert (found.better, found.cases) == (int((means > 0).sum()), 40)


def test_differences_are_paired_by_case_and_seed(tables):
    found = tables.difference(drawn(spread=0.0), "more", "plain")
    assert found.mean == pytest.approx(2, abs=0.05)  # the cases themselves vary by 10
    assert found.high - found.low < 0.1
    back = tables.difference(drawn(spread=0.0), "plain", "more")
    assert back.mean == -found.mean
    assert back.better == 0
    assert tables.difference(drawn(spread=0.0), "plain", "more", higher_is_better=False).better == 40


def test_seeds_that_disagree_widen_the_interval(tables):
    steady = {str(i): {"plain": [50.0] * 3, "more": [51.0] * 3} for i in range(10)}
    shaky = {str(i): {"plain": [50.0] * 3, "more": [41.0, 51.0, 61.0]} for i in range(10)}
    assert tables.difference(steady, "more", "plain").low == 1
    found = tables.difference(shaky, "more", "plain")
    assert (found.mean, found.better) == (1, 10)
    assert found.low < -1 < 3 < found.high


def test_ranks_are_shared_by_equal_means(tables):
    values = {"a": {"x": [90.0], "y": [80.0], "z": [90.0]}, "b": {"x": [70.0], "y": [75.0], "z": [60.0]}}
    expected = np.mean([rankdata([-90, -80, -90]), rankdata([-70, -75, -60])], axis=0)
    assert list(tables.mean_ranks(values).values()) == pytest.approx(expected)
    lowest_first = tables.mean_ranks(values, higher_is_better=False).values()
    assert list(lowest_first) == pytest.approx(4 - expected)


def test_methods_that_were_not_measured_everywhere_are_left_out(tables):
    values = {"a": {"x": [90.0, 92.0], "y": [80.0, 80.0]}, "b": {"x": [70.0, 68.0]}}
    assert tables.names(values) == ["x"]
    assert tables.over_seeds(values, "x") == (80.0, 0.0)
    rows = list(tables.summary(values, {"x": None}, {"x": 97.3}))
    assert rows[2] == "| x | 80.00 | 0.00 (2) | 1.0 |  |  | 97.3 |"
    assert list(tables.by_case(values))[2] == "| a | 91.0 ± 1.4 |"


def test_methods_may_be_measured_apart_and_keep_the_seeds_that_all_cases_have(tables):
    def entry(case, seed, **values):
        return {"case": case, "seed": seed, "values": values}

    entries = [entry("a", 1, x=2.0), entry("a", 0, x=1.0), entry("a", 0, y=5.0),
               entry("b", 0, x=3.0), entry("b", 1, x=4.0), entry("a", 2, x=9.0), entry("b", 0, y=6.0)]  # fmt: skip
    assert tables.collected(entries) == {"a": {"x": [1.0, 2.0], "y": [5.0]}, "b": {"x": [3.0, 4.0], "y": [6.0]}}
    (header, _, x, y) = tables.summary(tables.collected(entries), {}, {})
    assert "spread (seeds)" in header
    assert x.startswith("| x | 2.50 | 0.71 (2) |")
    assert y.startswith("| y | 5.50 | (1) |")


def test_methods_of_several_rows_are_compared_over_all_their_cases(tables):
    one, two, three = drawn(6), drawn(9, gain=-1.0), {"a": {"other": [1.0]}}
    against = {"more": "plain", "plain": None}
    lines = list(
        tables.over_rows({"one": one, "two": two, "three": three}, {"one": against, "two": against, "three": {}})
    )
    pooled = {f"{row}/{case}": found for row, cases in (("one", one), ("two", two)) for case, found in cases.items()}
    assert lines[2:] == [f"| more | plain | one, two | {tables.difference(pooled, 'more', 'plain')} |"]
    assert list(tables.over_rows({"one": one}, {"one": against}))[2:] == []
