"""One training objective per file; importing this package registers them."""

from sparsense.training.objectives.adversarial import Adversarial
from sparsense.training.objectives.context import Context, make_objective
from sparsense.training.objectives.cross_entropy import CrossEntropy
from sparsense.training.objectives.distillation import Distillation
from sparsense.training.objectives.energy_fine_tuning import EnergyFineTuning
from sparsense.training.objectives.gradcon import GradCon
from sparsense.training.objectives.gradient_regularization import GradientRegularization
from sparsense.training.objectives.latent_norm import LatentNorm
from sparsense.training.objectives.loss_amplification import LossAmplification
from sparsense.training.objectives.noise import Noise
from sparsense.training.objectives.objective import OBJECTIVES, Objective
from sparsense.training.objectives.outlier_exposure import OutlierExposure
from sparsense.training.objectives.reconstruction import Reconstruction

__all__ = [
    "OBJECTIVES",
    "Adversarial",
    "Context",
    "CrossEntropy",
    "Distillation",
    "EnergyFineTuning",
    "GradCon",
    "GradientRegularization",
    "LatentNorm",
    "LossAmplification",
    "Noise",
    "Objective",
    "OutlierExposure",
    "Reconstruction",
    "make_objective",
]
