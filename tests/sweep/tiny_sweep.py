"""A recipe that runs in seconds, for sweeps with real runs; and what the tests of clusters need."""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

TINY = """
name: tiny
network: {source: digits_resnet, weights: bundled}
data:
  train: {source: digits, split: train, limit: 100}
  calibration: {source: digits, split: calibration, limit: 60}
  test: {source: digits, split: test, limit: 60}
  anomalies:
    letters: {source: letters, limit: 30}
sensitivity: {samples: 40}
prune: {sparsity: 0.5, round_to: 8}
batch_norm: {samples: 100}
finetune: null
heads: [energy]
fit: {samples: 60}
calibrate: {false_alarm_rate: 0.1}
benchmark: null
"""
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs sparsense[ray]")


def kill_a_worker(folder: str) -> int:
    """Kill the process of the cluster that waits for a run with results in `folder`; gives the signal."""
    for _ in range(1200):
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # ended meanwhile
                if folder in (place / "cmdline").read_text() and "cli.worker" in (place / "cmdline").read_text():
                    os.kill(int((place / "stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
                    return signal.SIGKILL
        time.sleep(0.1)
    return 0
