"""Energy from counters that a test moves."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_run import make_card, make_scores

from sparsense.benchmark import result_tables
from sparsense.benchmark.joules import joules_per_call


@pytest.fixture
def counters(tmp_path: Path) -> Path:
    for name, start in {"intel-rapl:0": 1_000, "intel-rapl:1": 999_000, "intel-rapl:0:0": 5}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{start}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("1000000\n")
    return tmp_path


def burn(counters: Path, microjoules: int) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        file = counters / name / "energy_uj"
        file.write_text(f"{(int(file.read_text()) + microjoules) % 1_000_000}\n")


def test_processors_are_summed_and_counters_begin_anew(counters: Path) -> None:
    found = joules_per_call(lambda: burn(counters, 3_000), seconds=0, counters=counters)
    assert found == pytest.approx(2 * 3_000e-6)


def test_the_mean_over_calls(counters: Path) -> None:
    each = iter([1_000, 5_000] + [3_000] * 10**5)
    found = joules_per_call(lambda: burn(counters, next(each)), seconds=0.01, counters=counters)
    assert found is not None
    assert 1_000e-6 * 2 <= found <= 3_000e-6 * 2


def test_no_counters_no_number(tmp_path: Path, counters: Path) -> None:
    assert joules_per_call(lambda: None, counters=tmp_path / "nothing") is None
    (counters / "intel-rapl:1" / "energy_uj").unlink()  # as good as not allowed to read it
    assert joules_per_call(lambda: None, counters=counters) is None


def test_the_report_shows_energy_where_it_was_counted() -> None:
    card = make_card(make_scores())
    assert "energy" not in result_tables.latency(card).columns
    counted = [row.model_copy(update={"joules": 0.00125 if row.batch == 1 else None}) for row in card.latency]
    table = result_tables.latency(card.model_copy(update={"latency": counted}))
    assert table.columns[-1] == "energy"
    assert {row[-1] for row in table.rows if row[2] == "1"} == {"1.25\N{NO-BREAK SPACE}mJ"}
