"""How a recipe says that something is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sparsense.recipe.section import BareName, Count, NotNegative, Options, Positive, Section


class ObjectiveSection(Section):
    """What training makes small; a bare name stands for itself with default options."""

    name: str
    """Such as `cross_entropy`, `distillation` (soft targets of the dense network), `reconstruction`, `adversarial`,
    `outlier_exposure` (needs `data.outliers`) or `noise`; one file each in `sparsense.training.objectives`."""
    options: Options = Field(default={})
    """Options of the objective, such as `temperature` of `distillation`."""


class TrainingSection(Section):
    """One training loop, as fine-tuning and training from scratch share it."""

    epochs: Count = 5
    """Passes over the training samples."""
    learning_rate: Positive = 0.01
    """The largest of the run."""
    batch_size: Count = 64
    """Of the largest batch."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """`sgd` has a Nesterov momentum of 0.9."""
    weight_decay: NotNegative = 5e-4
    """For weights; biases and norms are left alone."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "cosine"
    """The learning rate over the run."""
    augment: list[str] = Field(default=[])
    """Augmentations of images, applied in this order: `shift`, `flip`."""
    objective: Annotated[ObjectiveSection, BareName] | None = None
    """What is made small; null: `cross_entropy` for classifiers, `reconstruction` for autoencoders."""


class TrainSection(TrainingSection):
    """For recipes that train the reference network itself (`sparsense train`)."""

    epochs: Count = 30
    """Passes over the training samples."""
    learning_rate: Positive = 0.1
    """The largest of the run."""


class SearchSection(TrainingSection):
    """A mask is learnt while the weights stay as they are: a subnetwork without training."""

    init: Literal["hydra", "edge_popup"] = "hydra"
    """Scores start from the weights (`hydra`) or at random (`edge_popup`)."""
    epochs: Count = 10
    """Passes over the training samples."""
    learning_rate: Positive = 2e-3
    """The largest of the run."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    """For the scores."""
    weight_decay: NotNegative = 0.0
    """For the scores."""
