"""Oracles: every head's score computed a second time, from torch per-sample autograd in float64 and numpy.

They share no code with the graphs that they judge. Slow and obvious on purpose.
"""

from sparsense.oracles.oracle import ORACLES, oracle_scores

from sparsense.oracles import classes, features, logits, sensitivity, shaping  # isort: skip  importing registers

__all__ = ["ORACLES", "classes", "features", "logits", "oracle_scores", "sensitivity", "shaping"]
