"""The command line: every command in a file of its own, heavy imports inside the commands."""

from sparsense.cli import (
    attach,
    bench,
    compare,
    drift,
    inspect,
    listing,
    prune,
    quantise,
    recalibrate,
    run,
    score,
    stress,
    sweep,
    verify,
)
from sparsense.cli.app import app, main

__all__ = [
    "app",
    "attach",
    "bench",
    "compare",
    "drift",
    "inspect",
    "listing",
    "main",
    "prune",
    "quantise",
    "recalibrate",
    "run",
    "score",
    "stress",
    "sweep",
    "verify",
]
