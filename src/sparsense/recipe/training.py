"""How a recipe says that something is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sparsense.recipe.section import BareName, Count, NotNegative, Options, Positive, Section, Share


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
    """For recipes that train the network first: `sparsense run` before all else, `sparsense train` only that."""

    epochs: Count = 30
    """Passes over the training samples."""
    learning_rate: Positive = 0.1
    """The largest of the run."""
    validation: Share = 0.0
    """Share of the training samples that is held out, to choose an epoch by."""
    select: Literal["last", "val_loss", "val_auroc"] = "last"
    """Which epoch's weights are kept: the `last`, that of the smallest objective on held-out samples (`val_loss`), or
    that which best tells them from `data.validation_anomalies` (`val_auroc`). The last one **uses labels**: results
    are then not those of training on normal samples alone."""
    patience: Count | None = None
    """Epochs without a better one after which training ends; null: never before the last."""
    accelerator: Literal["cpu", "cuda", "mps", "auto"] = "cpu"
    """Anything but `cpu` needs `sparsense[train]`."""
    devices: Count = 1
    """Processes that share every batch; several need `sparsense[train]` and `sparsense train`."""
    precision: Literal["32", "bf16"] = "32"
    """`bf16` computes forward passes in bfloat16; needs `sparsense[train]`."""
    tensorboard: bool = False
    """Also write TensorBoard logs, beside the CSV file; needs `sparsense[train]`."""

    @model_validator(mode="after")
    def _chosen_by_something(self) -> TrainSection:
        if self.select != "last" and not self.validation:
            raise ValueError(
                f"select: {self.select} needs held-out samples; set validation to the share of training samples that "
                "is held out, such as 0.1"
            )
        if self.select == "last" and (self.patience is not None or self.validation):
            raise ValueError("patience and validation are for select: val_loss or val_auroc; leave them out")
        return self


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
