"""Run as a program in a fresh process: the bytes that each of some models adds to the peak memory, as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

from sparsense.benchmark.onnx_cost import onnx_call


def process_peak() -> int | None:
    """Peak resident memory of this process since it began, in bytes; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # not getrusage: on Linux a child inherits the peak of the process that made it
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        import resource

        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return None


def growth(path: str, batch: int, threads: int) -> int | None:
    """By how much the peak grows while a model is loaded and run once."""
    before = process_peak()
    onnx_call(path, batch=batch, threads=threads)()
    after = process_peak()
    return None if before is None or after is None else after - before


def main(batch: int, threads: int, paths: Sequence[str]) -> list[int | None]:
    """Of several models, each in a child of its own, which begins with the runtime loaded and no peak."""
    context = get_context("fork" if "fork" in get_all_start_methods() else None)
    with context.Pool(1, maxtasksperchild=1) as pool:
        return pool.starmap(growth, [(path, batch, threads) for path in paths], chunksize=1)


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
