"""Memory grows with the micro-batch, not with the number of inputs; asked of the operating system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tiny_detectors import write_detector

STATUS = Path("/proc/self/status")
pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="this system does not tell how much memory was used")

FEW, MANY, SIDE = 512, 4096, 48
SAMPLE = SIDE * SIDE * 3  # bytes of an input; the detector's first step makes four times as many of it
AT_ONCE = 4 * SAMPLE * (MANY - FEW)  # what one batch of all inputs would need more

API = r"""
import re, sys
import numpy as np
from sparsense.runtime import ExportedDetector
count, micro_batch = int(sys.argv[3]), int(sys.argv[4])
inputs = np.ones((count, {side}, {side}, 3), np.uint8)
found = ExportedDetector(sys.argv[1], threads=1, micro_batch=micro_batch)(inputs)
assert len(found) == count and (found.score == 1).all()
print(int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) * 1024 - inputs.nbytes)
"""

COMMAND = r"""
import re, sys
import numpy as np
from typer.testing import CliRunner
from sparsense.cli import app
file, rows = sys.argv[2] + "/" + sys.argv[3] + ".npy", sys.argv[2] + "/" + sys.argv[3] + ".csv"
result = CliRunner().invoke(app, ["score", sys.argv[1], file, "--format", "csv", "--output", rows, "--threads", "1"])
assert result.exit_code == 0, result.output
assert sum(1 for _ in open(rows)) == int(sys.argv[3]) + 1
most = int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(most - np.load(file, mmap_mode="r").nbytes)
"""


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    for count in (FEW, MANY):
        np.save(folder / f"{count}.npy", np.ones((count, SIDE, SIDE, 3), np.uint8))
    return write_detector(folder / "detector.onnx", shape=("N", SIDE, SIDE, 3))


def peak(program: str, detector: Path, count: int, micro_batch: int = 64) -> int:
    """Bytes that a fresh process needed at most, without the inputs themselves.

    Asked of /proc, as what getrusage says begins with the size of the process that started it.
    """
    arguments = [str(detector), str(detector.parent), str(count), str(micro_batch)]
    command = [sys.executable, "-c", program.replace("{side}", str(SIDE)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("program", [API, COMMAND], ids=["call", "sparsense score"])
def test_scoring_eight_times_as_many_inputs_takes_no_more_memory(program: str, detector: Path) -> None:
    assert peak(program, detector, MANY) - peak(program, detector, FEW) < 0.2 * AT_ONCE


def test_the_measure_sees_a_batch_of_all_inputs(detector: Path) -> None:
    """The other side of the test above: without micro-batches it would fail."""
    assert peak(API, detector, MANY, micro_batch=MANY) - peak(API, detector, FEW, micro_batch=FEW) > 0.6 * AT_ONCE
