"""One training objective per file; importing this package registers them."""

from sparsense.training.objectives.cross_entropy import CrossEntropy
from sparsense.training.objectives.objective import OBJECTIVES, Objective

__all__ = ["OBJECTIVES", "CrossEntropy", "Objective"]
