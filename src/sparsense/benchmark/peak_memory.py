"""Run as a program in a fresh process: the bytes that one model adds to the peak memory, as JSON."""

from __future__ import annotations

import json
import sys
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


def main(path: str, batch: str, threads: str) -> int | None:
    """The growth of the peak while a model is loaded and run once."""
    before = process_peak()
    onnx_call(path, batch=int(batch), threads=int(threads))()
    after = process_peak()
    return None if before is None or after is None else after - before


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:4])))
