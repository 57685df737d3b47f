"""The one training loop, what feeds it, and what it minimises."""

from sparsense.training.batches import AUGMENTATIONS, Batches
from sparsense.training.evaluate import accuracy, predict
from sparsense.training.loop import train
from sparsense.training.objectives import OBJECTIVES, Objective
from sparsense.training.settings import TrainingSettings

__all__ = [
    "AUGMENTATIONS",
    "OBJECTIVES",
    "Batches",
    "Objective",
    "TrainingSettings",
    "accuracy",
    "predict",
    "train",
]
