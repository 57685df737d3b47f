"""Criteria: one paper per file, weights and record in, saliency out; importing this package registers them."""

from sparsense.criteria import (  # noqa: F401 - imported to be registered
    batch_norm_scale,
    crop,
    fpgm,
    gates,
    grasp,
    layer_adaptive_magnitude,
    magnitude,
    obd,
    random,
    score_aware,
    snip,
    synflow,
    taylor,
    wanda,
)
from sparsense.criteria.criterion import CRITERIA, Criterion, Saliency, Weights

__all__ = ["CRITERIA", "Criterion", "Saliency", "Weights"]
