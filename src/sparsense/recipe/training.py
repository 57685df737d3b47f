"""How a recipe says that something is trained."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sparsense.recipe.section import BareName, Count, NotNegative, Number, Options, Positive, Section, Share


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
    """Augmentations of images, applied in this order: `shift`, `flip`; outliers that are learnt from get the same."""
    objective: Annotated[ObjectiveSection, BareName] | None = None
    """What is made small; null: `cross_entropy` for classifiers, `reconstruction` for autoencoders."""
    precision: Literal["32", "bf16"] = "32"
    """`bf16` computes forward passes in bfloat16, which is faster on processors that know it; weights stay float32."""
    accelerator: Literal["cpu", "cuda", "mps", "auto"] = "cpu"
    """What trains; anything but `cpu` needs `sparsense[train]`."""


class ChosenTrainingSection(TrainingSection):
    """A training loop of which one epoch is kept."""

    validation: Share = 0.0
    """Share of the training samples that is held out, to choose an epoch by."""
    select: Literal["last", "val_loss", "val_auroc"] = "last"
    """Which epoch's weights are kept: the `last`, that of the smallest objective on held-out samples (`val_loss`), or
    that which best tells them from `data.validation_anomalies` (`val_auroc`). The last one **uses labels**: results
    are then not those of training on normal samples alone."""
    patience: Count | None = None
    """Epochs without a better one after which training ends; null: never before the last."""

    @model_validator(mode="after")
    def _chosen_by_something(self) -> Self:
        if self.select != "last" and not self.validation:
            raise ValueError(
                f"select: {self.select} needs held-out samples; set validation to the share of training samples that "
                "is held out, such as 0.1"
            )
        if self.select == "last" and (self.patience is not None or self.validation):
            raise ValueError(
                "patience and validation are for select: val_loss or val_auroc; with select: last set "
                "validation: 0 and patience: null"
            )
        return self


class TrainSection(ChosenTrainingSection):
    """For recipes that train the network first: `sparsense run` before all else, `sparsense train` only that."""

    epochs: Count = 30
    """Passes over the training samples."""
    learning_rate: Positive = 0.1
    """The largest of the run."""
    devices: Count = 1
    """Processes that share every batch; several need `sparsense[train]` and `sparsense train`."""
    tensorboard: bool = False
    """Also write TensorBoard logs, beside the CSV file; needs `sparsense[train]`."""


class SearchSection(ChosenTrainingSection):
    """A mask is learnt while the weights stay as they are: a subnetwork without training.

    The mask of the best epoch is kept, judged on training samples that are held out; a test sample is never looked at.
    """

    init: Literal["hydra", "edge_popup", "magnitude"] = "hydra"
    """Scores start from the weights with their signs (`hydra`, as published), at random (`edge_popup`), or from the
    sizes of the weights (`magnitude`), which is a good mask already and suits a short search."""
    epochs: Count = 10
    """Passes over the training samples."""
    learning_rate: Positive = 2e-3
    """The largest of the run."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    """For the scores."""
    weight_decay: NotNegative = 0.0
    """For the scores."""
    validation: Share = 0.1
    """Share of the training samples that is held out, to choose a mask by."""
    select: Literal["last", "val_loss", "val_auroc"] = "val_loss"
    """Which epoch's mask is kept: the `last`, that of the smallest objective on held-out samples (`val_loss`), or that
    which best tells them from `data.validation_anomalies` (`val_auroc`), which **uses labels**."""
    warm_up: Number | None = None
    """Epochs of the default objective before that of this section; null: a tenth of the epochs for `outlier_exposure`,
    as published, else none."""
