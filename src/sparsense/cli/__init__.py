"""The command line: every command in a file of its own, heavy imports inside the commands."""

from sparsense.cli import attach, bench, inspect, listing, recalibrate, run, score, verify
from sparsense.cli.app import app, main

__all__ = ["app", "attach", "bench", "inspect", "listing", "main", "recalibrate", "run", "score", "verify"]
