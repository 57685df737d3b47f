"""What a recipe may say: every key with its type, range and default."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sparsense.data.preprocessing import Preprocessing
from sparsense.recipe.text import write_yaml

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100)]
Options = dict[str, Any]


class Section(BaseModel):
    """A mapping of a recipe: unknown keys are refused, nothing is converted, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class PreprocessingSection(Section):
    """See `sparsense.data.preprocessing.Preprocessing`."""

    layout: Literal["NHWC", "NCHW", "ND"] = "NHWC"
    dtype: Literal["uint8", "float32"] = "uint8"
    scale: Positive = 1 / 255
    mean: list[float] = Field(default=[0.0], min_length=1)
    std: list[Positive] = Field(default=[1.0], min_length=1)

    def build(self) -> Preprocessing:
        """The dataclass that the rest of the code uses."""
        return Preprocessing.from_dict(self.model_dump())


class NetworkSection(Section):
    """Which network, with which weights.

    `weights` is `bundled`, a file (perhaps below the data root), or null: as the function makes them.
    The last three keys are for networks that do not declare them.
    """

    source: str
    weights: str | None = "bundled"
    options: Options = {}
    preprocessing: PreprocessingSection | None = None
    input_shape: list[Count] | None = None
    task: Literal["classifier", "reconstruction"] | None = None


class SourceSection(Section):
    """One set of samples: a split of a registered source."""

    source: str
    split: str = ""
    limit: Count | None = None
    options: Options = {}


class DataSection(Section):
    """The sets of samples, each with its own purpose.

    `train` fits and fine-tunes, `calibration` sets the threshold and nothing else, `test` is measured once.
    """

    train: SourceSection
    calibration: SourceSection
    test: SourceSection
    anomalies: dict[Name, SourceSection] = {}

    @model_validator(mode="after")
    def _disjoint(self) -> DataSection:
        """The guarantee on the false-alarm rate needs calibration samples that nothing else has seen."""
        sets = {"train": self.train, "calibration": self.calibration, "test": self.test}
        origin = {name: (s.source, s.split, s.options) for name, s in sets.items()}
        for one, other in (("calibration", "train"), ("calibration", "test"), ("train", "test")):
            if origin[one] == origin[other]:
                raise ValueError(f"{one} and {other} are the same samples; give each its own split")
        return self


class SensitivitySection(Section):
    """The pass over training samples that the criteria read."""

    loss: str = "cross_entropy"
    samples: Count = 1000
    batch_size: Count = 64


class PruneSection(Section):
    """What is removed, by which criterion, and how much of it."""

    structure: Literal["channel", "weight"] = "channel"
    criterion: str = "magnitude"
    options: Options = {}
    sparsity: Share = 0.5
    scope: Literal["global", "layer", "erk"] = "global"
    round_to: Count | None = None
    ignore: list[str] = []

    @model_validator(mode="after")
    def _rounding_is_for_channels(self) -> PruneSection:
        if self.structure == "weight" and self.round_to is not None:
            raise ValueError("round_to is about widths, so it goes with structure: channel; leave it out")
        if self.structure == "channel" and self.scope == "erk":
            raise ValueError("scope erk shares out single weights, so it goes with structure: weight")
        return self


class BatchNormSection(Section):
    """Batch-norm statistics are measured anew after pruning."""

    samples: Count = 1000


class TrainingSection(Section):
    """One training loop, as fine-tuning and training from scratch share it."""

    epochs: Count = 5
    learning_rate: Positive = 0.01
    batch_size: Count = 64
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    weight_decay: NotNegative = 5e-4
    schedule: Literal["constant", "cosine", "one_cycle"] = "cosine"
    augment: list[str] = []


class TrainSection(TrainingSection):
    """For recipes that train the reference network itself (`sparsense train`)."""

    epochs: Count = 30
    learning_rate: Positive = 0.1
    schedule: Literal["constant", "cosine", "one_cycle"] = "cosine"


class HeadSection(Section):
    """A detection head by name; a bare name stands for itself with default options."""

    name: str
    options: Options = {}


class FitSection(Section):
    """How much training data the heads are fitted on."""

    samples: Count = 2000
    batch_size: Count = 64


class CalibrateSection(Section):
    """The allowed share of in-distribution inputs that raise an alarm."""

    false_alarm_rate: Rate = 0.05


class ExportSection(Section):
    """The detector file: layout of its input, worst relative error against the oracle, ONNX opset."""

    layout: Literal["NHWC", "NCHW"] = "NHWC"
    tolerance: Positive = 1e-5
    opset: Annotated[int, Field(ge=18)] | None = None


class BenchmarkSection(Section):
    """How latency is measured."""

    rounds: Annotated[int, Field(ge=6)] = 15
    batch_sizes: list[Count] = Field(default=[1, 32], min_length=1)
    threads: Count = 1


def _named(head: object) -> object:
    return {"name": head} if isinstance(head, str) else head


class Recipe(Section):
    """One run. `prune`, `batch_norm`, `finetune` and `benchmark` may be null: that step is left out."""

    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data_root: str | None = None
    network: NetworkSection
    data: DataSection
    train: TrainSection | None = None
    sensitivity: SensitivitySection = SensitivitySection()
    prune: PruneSection | None = PruneSection()
    batch_norm: BatchNormSection | None = BatchNormSection()
    finetune: TrainingSection | None = TrainingSection()
    heads: list[Annotated[HeadSection, BeforeValidator(_named)]] = Field(
        default=[HeadSection(name="sensnorm_profile")], min_length=1
    )
    fit: FitSection = FitSection()
    calibrate: CalibrateSection = CalibrateSection()
    export: ExportSection = ExportSection()
    benchmark: BenchmarkSection | None = BenchmarkSection()

    @model_validator(mode="after")
    def _heads_have_names_of_their_own(self) -> Recipe:
        """Each head is written to a file that carries its name."""
        if twice := [name for name, count in Counter(h.name for h in self.heads).items() if count > 1]:
            raise ValueError(f"heads: {twice[0]!r} is listed twice; every head is written to a file of its name")
        return self

    def to_yaml(self) -> str:
        """The recipe with every default written out; `load_recipe` reads it back as the same recipe."""
        return write_yaml(self.model_dump())
