"""Oracles: every head's score computed a second time, from torch per-sample autograd in float64 and numpy.

They share no code with the graphs that they judge. Slow and obvious on purpose.
"""

from sparsense.oracles.oracle import ORACLES, oracle_scores

from sparsense.oracles import features, logits, sensitivity  # isort: skip  importing registers

__all__ = ["ORACLES", "features", "logits", "oracle_scores", "sensitivity"]
