"""Oracles: every head's score computed a second time, from torch per-sample autograd in float64 and numpy.

They share no code with the graphs that they judge. Slow and obvious on purpose.
"""

from importlib import import_module

from sparsense.oracles.oracle import ORACLES, oracle_parity, oracle_scores

for _name in [
    "classes",
    "features",
    "fusion",
    "gradients",
    "logits",
    "reconstruction",
    "sensitivity",
    "shaping",
    "statistics",
    "weight_gradients",
]:
    import_module(f"{__name__}.{_name}")  # importing an oracle registers it

__all__ = ["ORACLES", "oracle_parity", "oracle_scores"]
