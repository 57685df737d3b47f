"""Finalists timed together: who they are, that ratios refer to their own dense network, and what uses them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from example_sweep import fill

from sparsense.benchmark import latency
from sparsense.sweep import finals
from sparsense.sweep.entries import entries
from sparsense.sweep.finals import finalists, forward_of, latest_rows, measure_finals, timed
from sparsense.sweep.frontier import recommend
from sparsense.sweep.report import write_sweep_report
from sparsense.sweep.store import open_store
from tiny_detectors import write_detector

MARGIN = 0.2


@pytest.fixture
def store(tmp_path):
    """Every detector that the invented cards name is there, as a file that runs."""
    with open_store(tmp_path / "sweep.sqlite") as found:
        fill(found, tmp_path)
        for event in found.latest().values():
            for row in event.body.get("candidates", ()):
                write_detector_at(event.body["folder"], row["file"])
        yield found


def write_detector_at(folder, file):
    place = Path(folder) / file
    place.parent.mkdir(parents=True, exist_ok=True)
    write_detector(place)


@pytest.fixture
def clock(monkeypatch):
    """Times by the text of the folder: dense plain 10 ms, the sparsest detectors fastest; and what it was asked."""
    asked: list[list[str]] = []

    def compare(calls, *, rounds):
        asked.append(list(calls))
        found = {}
        for name in calls:
            ms = 10.0 if "/" not in name else 10 * (1.5 - next(float(s) for s in ("0.3", "0.5", "0.7") if s in name))
            ratio = ms / 10.0
            found[name] = latency.Latency(ms, (ms, ms), ms, ratio, (ratio * 0.9, ratio * 1.1), "faster", rounds, 1)
        return found

    monkeypatch.setattr(finals, "compare_latency", compare)
    return asked


def test_finalists_are_fronts_recommendations_and_the_dense_one(store):
    found = entries(store)
    chosen = finalists(found, margin=MARGIN)
    assert 1 < len(chosen) <= len(found)
    for cost in ("bytes", "time", "multiply_adds"):
        assert recommend(found, cost, margin=MARGIN).entry in chosen
    assert any(entry.candidate.variant == "dense" for entry in chosen)


def test_times_of_the_joint_measurement_take_the_place_of_the_others(store, clock):
    before = {(e.folder, e.candidate.file): e.candidate.time for e in entries(store)}
    assert measure_finals(store, margin=MARGIN) == []
    found = entries(store)
    together = [entry for entry in found if entry.candidate.together]
    assert {(e.folder, e.candidate.file) for e in together} == {(r["folder"], r["file"]) for r in latest_rows(store)}
    assert len(together) >= 2
    for entry in together:
        sparsity = next(s for s in (0.3, 0.5, 0.7) if f"example-{s}" in entry.folder)
        assert entry.candidate.time == pytest.approx(1.5 - sparsity)
        assert entry.candidate.milliseconds == pytest.approx(10 * (1.5 - sparsity))
    for entry in found:
        if not entry.candidate.together:
            assert entry.candidate.time == before[entry.folder, entry.candidate.file]
    assert len(clock) == 1  # all in one measurement
    assert sum("/" not in name for name in clock[0]) == 1  # the dense networks are the same file


def test_the_fastest_is_chosen_among_those_measured_together(store, clock):
    measure_finals(store, margin=MARGIN)
    best = recommend(entries(store), "time", margin=MARGIN)
    assert best.entry.candidate.together
    assert best.entry.values == {"prune.sparsity": 0.7}


def test_what_was_measured_is_not_measured_again_until_a_point_ends(store, clock):
    measure_finals(store, margin=MARGIN)
    measure_finals(store, margin=MARGIN)
    assert len(clock) == 1
    first = next(event for event in store.events if event.kind == "done")
    store.append("done", first.point, **first.body)
    assert not any(e.candidate.together for e in entries(store) if e.folder == first.body["folder"])
    measure_finals(store, margin=MARGIN)
    assert len(clock) == 2


def test_files_that_are_gone_are_said_and_the_others_measured(store, clock, tmp_path):
    shutil.rmtree(tmp_path / "points" / "example-0.7")
    told = measure_finals(store, margin=MARGIN)
    assert told
    assert all("example-0.7" in line for line in told)
    assert any(entry.candidate.together for entry in entries(store))


def test_the_report_says_which_times_are_comparable(store, clock, tmp_path):
    measure_finals(store, margin=MARGIN)
    write_sweep_report(store, tmp_path, margin=MARGIN)
    assert "finalists were measured together" in (tmp_path / "report.md").read_text()
    rows = json.loads((tmp_path / "frontier.json").read_text())["detectors"]
    assert {row["together"] for row in rows} == {True, False} or all(row["together"] for row in rows)


def test_real_files_are_timed_against_their_own_plain_network(tmp_path, monkeypatch):
    def compare(calls, *, rounds):
        """The first takes 1 ms, the second 2 ms, and so on; all of them run."""
        for call in calls.values():
            call()
        return {
            name: latency.Latency(ms, (ms, ms), ms, ms, (ms, ms), "slower", rounds, 1)
            for ms, name in enumerate(calls, 1)
        }

    monkeypatch.setattr(finals, "compare_latency", compare)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    write_detector(tmp_path / "a/dense.onnx", shape=("N", 64, 64, 3))
    write_detector(tmp_path / "a/same.onnx", shape=("N", 64, 64, 3))
    write_detector(tmp_path / "b/dense.onnx")
    files = {("a", "same.onnx"): tmp_path / "a/same.onnx", ("b", "dense.onnx"): tmp_path / "b/dense.onnx"}
    rows = timed(files, {"a": tmp_path / "a/dense.onnx", "b": tmp_path / "b/dense.onnx"}, rounds=6)
    assert [(row["folder"], row["file"]) for row in rows] == [("a", "same.onnx"), ("b", "dense.onnx")]
    assert [row["time"] for row in rows] == [3 / 1, 4 / 2]  # two plain networks come first
    assert [row["milliseconds"] for row in rows] == [3, 4]
    assert len(forward_of(tmp_path / "b/dense.onnx")) < (tmp_path / "b/dense.onnx").stat().st_size
