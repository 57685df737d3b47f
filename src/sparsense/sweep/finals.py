"""The finalists of a sweep measured once more, all together: times of different hours become comparable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsense.benchmark.latency import Latency, compare_latency
from sparsense.benchmark.machine import this_machine
from sparsense.benchmark.onnx_cost import onnx_call
from sparsense.errors import InputError
from sparsense.sweep.entries import Entry, entries, place
from sparsense.sweep.frontier import COSTS, FRONTS, front, recommend, reference
from sparsense.sweep.store import Store

ROUNDS = 21
Row = dict[str, Any]


def finalists(found: Sequence[Entry], *, margin: float = 0.005) -> list[Entry]:
    """Detectors on any front, those that are recommended, and the dense one that they are held against."""
    chosen = [entry for quality in FRONTS for cost in COSTS for entry in front(found, quality=quality, cost=cost)]
    chosen += [best.entry for cost in COSTS if (best := recommend(found, cost, margin=margin)) is not None]
    dense = reference(found)
    chosen += [entry for entry in found if entry.candidate == dense]
    return list({place(entry): entry for entry in chosen}.values())


def measure_finals(store: Store, *, margin: float = 0.005, rounds: int = ROUNDS) -> list[str]:
    """Time all finalists in interleaved rounds, and put it into the store; nothing where this was done already.

    Args:
        store: Of a sweep.
        margin: Of the recommendation.
        rounds: Every round runs each finalist, and the plain dense network of each.

    Returns:
        Finalists that could not be measured, with the reason.
    """
    chosen = finalists(entries(store), margin=margin)
    known = {(row["folder"], row["file"]) for row in latest_rows(store)}
    if not chosen or {place(entry) for entry in chosen} <= known:
        return []
    files = {place(entry): Path(entry.folder) / entry.candidate.file for entry in chosen}
    lost = {key: file for key, file in files.items() if not file.is_file()}
    files = {key: file for key, file in files.items() if key not in lost}
    dense = {folder: file for folder, file in dense_files(store).items() if file.is_file()}
    left_out = [f"{file} is not there" for file in lost.values()]
    left_out += [f"{folder} has no dense detector" for folder, _ in files if folder not in dense]
    files = {key: file for key, file in files.items() if key[0] in dense}
    if files:
        rows = timed(files, dense, rounds=rounds)
        machine = this_machine()
        store.append("measured", rounds=rounds, batch=1, threads=1, machine=machine.cpu, rows=rows)
    return left_out


def timed(
    files: Mapping[tuple[str, str], Path], dense: Mapping[str, Path], *, rounds: int, batch: int = 1, threads: int = 1
) -> list[Row]:
    """A row per file: its time as a ratio to the plain dense network of its own run, and in milliseconds.

    Milliseconds are the ratio times the median of the first dense network, so they are comparable with each other.

    Args:
        files: Folder and name -> detector file.
        dense: Folder -> a dense detector of the same run.
        rounds: How often each is run, in turns.
        batch: Samples per call.
        threads: Within an operator.
    """
    plain = {folder: forward_of(dense[folder]) for folder, _ in files}
    names = {folder: hashlib.sha256(content).hexdigest() for folder, content in plain.items()}
    contents = {names[folder]: content for folder, content in plain.items()}
    calls = {name: onnx_call(content, batch=batch, threads=threads) for name, content in contents.items()}
    calls |= {"/".join(key): onnx_call(file, batch=batch, threads=threads) for key, file in files.items()}
    found = compare_latency(calls, rounds=rounds)
    unit = next(iter(found.values())).median_ms
    return [_row(key, found["/".join(key)], found[names[key[0]]], unit) for key in files]


def _row(key: tuple[str, str], latency: Latency, baseline: Latency, unit: float) -> Row:
    low, high = (bound / baseline.ratio for bound in latency.ratio_interval)
    return {
        "folder": key[0], "file": key[1], "time": latency.ratio / baseline.ratio, "time_interval": [low, high],
        "milliseconds": latency.ratio * unit,
    }  # fmt: skip


def forward_of(file: Path) -> bytes:
    """Preprocessing and network of a detector, without its head."""
    import onnx_ir as ir

    from sparsense.graph import load_graph
    from sparsense.graph.run import with_outputs

    model = load_graph(file)
    output = next((value for value in model.graph.outputs if value.name == "output"), None)
    if output is None:
        raise InputError(f"measuring finalists: {file} is no detector, as it has no output 'output'")
    plain = with_outputs(model, [output])
    plain.graph.inputs[:] = [value for value in plain.graph.inputs if value.name == "input"]
    content: bytes = ir.to_proto(plain).SerializeToString(deterministic=True)
    return content


def dense_files(store: Store) -> dict[str, Path]:
    """Folder of a run -> one of its dense detectors."""
    found: dict[str, Path] = {}
    for event in store.latest().values():
        if event.kind == "done":
            folder = event.body["folder"]
            files = [row["file"] for row in event.body["candidates"] if row["variant"] == "dense"]
            if files:
                found[folder] = Path(folder) / files[0]
    return found


def latest_rows(store: Store) -> list[Row]:
    """Of the last measurement that no point has ended after."""
    for event in reversed(store.events):
        if event.kind == "measured":
            rows: list[Row] = event.body["rows"]
            return rows
        if event.kind == "done":
            return []
    return []
