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


def drawn(
    cases: int = 40, seeds: int = 3, gain: float = 2.0, spread: float = 1.0
) -> dict[str, dict[str, dict[int, float]]]:
    random = np.random.default_rng(0)
    found = {}
    for case in range(cases):
        plain = random.normal(80, 10, seeds)
        more = plain + gain + random.normal(0, spread) + random.normal(0, 0.1, seeds)
        found[str(case)] = {"plain": by_seed(*plain), "more": by_seed(*more)}
    return found


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(map(float, values)))


def test_the_interval_of_a_difference_is_that_of_its_cases(tables):
    values = drawn()
    means = np.array(
        [np.mean(list(row["more"].values())) - np.mean(list(row["plain"].values())) for row in values.values()]
    )
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


def test_a_seed_that_only_one_of_them_has_is_left_out(tables):
    values = {case: {"more": {0: 71.0, 2: 80.0}, "plain": {1: 90.0, 2: 79.0}} for case in "ab"}
    found = tables.difference(values, "more", "plain")
    assert (found.mean, found.low, found.high) == (1, 1, 1)
    with pytest.raises(ValueError, match="no case and seed in common"):
        tables.difference({"a": {"more": {0: 1.0}, "plain": {1: 1.0}}}, "more", "plain")


def test_cases_that_share_a_set_of_anomalies_are_drawn_together(tables):
    gains = {"svhn": -4.0, "textures": 10.0, "letters": 7.0}
    values = {
        f"net{i}, {name}": {"plain": by_seed(80), "more": by_seed(80 + gain)}
        for i in range(4)
        for name, gain in gains.items()
    }
    alone = tables.difference(values, "more", "plain")
    crossed = tables.difference(values, "more", "plain", crossed=True)
    assert crossed.mean == alone.mean
    assert (crossed.low, crossed.high) == (-4, 10)  # of three sets one is drawn three times in 1 of 27
    assert crossed.low < alone.low < alone.high < crossed.high


def test_one_case_has_a_range_of_seeds_and_no_interval(tables):
    found = tables.difference({"toycar": {"more": by_seed(3, 1, 2), "plain": by_seed(1, 1, 1)}}, "more", "plain")
    assert str(found) == "+1.00 (seeds +0.00 to +2.00)"


def test_seeds_that_disagree_widen_the_interval(tables):
    steady = {str(i): {"plain": by_seed(50, 50, 50), "more": by_seed(51, 51, 51)} for i in range(10)}
    shaky = {str(i): {"plain": by_seed(50, 50, 50), "more": by_seed(41, 51, 61)} for i in range(10)}
    assert tables.difference(steady, "more", "plain").low == 1
    found = tables.difference(shaky, "more", "plain")
    assert (found.mean, found.better) == (1, 10)
    assert found.low < -1 < 3 < found.high


def test_ranks_are_shared_by_equal_means(tables):
    values = {
        "a": {"x": by_seed(90.0), "y": by_seed(80.0), "z": by_seed(90.0)},
        "b": {"x": by_seed(70.0), "y": by_seed(75.0), "z": by_seed(60.0)},
    }
    expected = np.mean([rankdata([-90, -80, -90]), rankdata([-70, -75, -60])], axis=0)
    assert list(tables.mean_ranks(values).values()) == pytest.approx(expected)
    lowest_first = tables.mean_ranks(values, higher_is_better=False).values()
    assert list(lowest_first) == pytest.approx(4 - expected)


def test_methods_that_were_not_measured_everywhere_are_left_out(tables):
    values = {"a": {"x": by_seed(90.0, 92.0), "y": by_seed(80.0, 80.0)}, "b": {"x": by_seed(70.0, 68.0)}}
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
    assert tables.collected(entries) == {
        "a": {"x": by_seed(1.0, 2.0), "y": by_seed(5.0)},
        "b": {"x": by_seed(3.0, 4.0), "y": by_seed(6.0)},
    }
    (header, _, x, y) = tables.summary(tables.collected(entries), {}, {})
    assert "spread (seeds)" in header
    assert x.startswith("| x | 2.50 | 0.71 (2) |")
    assert y.startswith("| y | 5.50 | (1) |")


def test_methods_of_several_rows_are_compared_over_all_their_cases(tables):
    one, two, three = drawn(6), drawn(9, gain=-1.0), {"a": {"other": by_seed(1)}}
    against = {"more": "plain", "plain": None}
    lines = list(
        tables.over_rows({"one": one, "two": two, "three": three}, {"one": against, "two": against, "three": {}})
    )
    pooled = {f"{row}/{case}": found for row, cases in (("one", one), ("two", two)) for case, found in cases.items()}
    assert lines[2:] == [f"| more | plain | one, two | {tables.difference(pooled, 'more', 'plain')} |"]
    assert list(tables.over_rows({"one": one}, {"one": against}))[2:] == []
