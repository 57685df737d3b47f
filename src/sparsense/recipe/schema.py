"""What a recipe may say: every key with its type, range and default."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sparsense.data.preprocessing import Preprocessing
from sparsense.recipe.prune import PruneSection
from sparsense.recipe.robustness import RobustnessSection
from sparsense.recipe.section import BareName, Count, Name, Options, Positive, Rate, Section, Share
from sparsense.recipe.text import write_yaml
from sparsense.recipe.training import TrainingSection, TrainSection


class PreprocessingSection(Section):
    """What the network sees: (x * scale - mean) / std."""

    layout: Literal["NHWC", "NCHW", "ND"] = "NHWC"
    """Order of the axes of the detector's input; `ND` for rows of numbers."""
    dtype: Literal["uint8", "float32"] = "uint8"
    """Of the detector's input."""
    scale: Positive = 1 / 255
    """Multiplies the raw input."""
    mean: list[float] = Field(default=[0.0], min_length=1)
    """One number, or one per channel."""
    std: list[Positive] = Field(default=[1.0], min_length=1)
    """One number, or one per channel."""

    def build(self) -> Preprocessing:
        """The dataclass that the rest of the code uses."""
        return Preprocessing.from_dict(self.model_dump())


class NetworkSection(Section):
    """Which network, with which weights.

    The last three keys are for networks that do not declare them.
    """

    source: str
    """A registered name (`sparsense list networks`), `package.module:function`, `timm:NAME`, `torchvision:NAME` or
    `transformers:NAME`."""
    weights: str | None = "bundled"
    """`bundled`, a file (perhaps below the data root), or null: as the function makes them."""
    options: Options = Field(default={})
    """Keyword arguments of the function."""
    preprocessing: PreprocessingSection | None = None
    """What happens to an input before the network sees it."""
    input_shape: list[Count] | None = None
    """`[C, H, W]` or `[D]`."""
    task: Literal["classifier", "reconstruction"] | None = None
    """What the output is."""


class SourceSection(Section):
    """One set of samples: a split of a registered source."""

    source: str
    """A name of docs/data.md, such as `digits`, `image_folder` or `npz`."""
    split: str = ""
    """Such as `train`; the source's own default when left out."""
    limit: Count | None = None
    """At most so many samples, drawn with the recipe's seed."""
    options: Options = Field(default={})
    """Options of the source, such as `path` of `image_folder`."""


class DataSection(Section):
    """The sets of samples, each with its own purpose."""

    train: SourceSection
    """Fits and fine-tunes."""
    calibration: SourceSection
    """Sets the threshold and nothing else."""
    test: SourceSection
    """Measured on."""
    anomalies: dict[Name, SourceSection] = Field(default={})
    """Name -> samples that the detectors should find."""
    outliers: SourceSection | None = None
    """Learnt from by `outlier_exposure`, `energy_fine_tuning` and `gradient_regularization`; keep them apart from
    `test` and `anomalies`."""
    validation_anomalies: SourceSection | None = None
    """What `select: val_auroc` tells normal samples from, and what `precision: int8` is judged by; keep them apart from
    `test`, `anomalies` and `outliers`."""

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
    """What is differentiated: `cross_entropy`, `raw_logit`, `reconstruction`, or a detection score (`energy`,
    `max_softmax`, `entropy`), so that a criterion keeps what the score, not the class, depends on."""
    samples: Count = 1000
    """How many training samples; the sensitivity analysis judges as many others."""
    batch_size: Count = 64
    """Samples per batch."""
    record: str | None = None
    """A file that keeps the record; one that is there and fits network and data is not made again."""
    analysis: str | None = None
    """The same for the sensitivity analysis, a JSON file."""


class BatchNormSection(Section):
    """Batch-norm statistics are measured anew after pruning."""

    samples: Count = 1000
    """How many training samples."""


class HeadSection(Section):
    """A detection head by name; a bare name stands for itself with default options."""

    name: str
    """See docs/heads.md."""
    options: Options = Field(default={})
    """Options of the head."""
    explain: bool = False
    """Also give what a score is made of: outputs `explanation` and `explanation_map`, drawn in the report."""
    detail: Literal["parts", "layers", "channels"] = "parts"
    """What the explanation divides a score into; `parts`: the head's own (members, layers, features, terms)."""
    group: Count = 1
    """Consecutive inputs that get one score together, such as images of one scene; the file then takes groups."""


class FitSection(Section):
    """How much training data the heads are fitted on."""

    samples: Count = 2000
    """How many training samples."""
    batch_size: Count = 64
    """Samples per batch."""
    cache: str | None = None
    """Folder that keeps what the heads observe, batch by batch, so that a fitting goes on where it was interrupted."""


class CalibrateSection(Section):
    """The threshold."""

    false_alarm_rate: Rate = 0.05
    """The allowed share of in-distribution inputs that raise an alarm."""
    per_class: Literal["no", "strict", "pool"] = "no"
    """`strict`: a threshold for each predicted class, which then keeps the rate by itself; `pool`: classes with too few
    calibration samples share the threshold of all."""


class ExportSection(Section):
    """The detector file."""

    layout: Literal["NHWC", "NCHW"] | None = None
    """Order of the axes of its input; null: that of `network.preprocessing`, or of the network itself."""
    tolerance: Positive = 1e-5
    """Worst relative error against the oracle."""
    opset: Annotated[int, Field(ge=18)] | None = None
    """ONNX opset of the files; null: 20."""
    private: bool = False
    """Files hold no calibration inputs and no hashes of inputs; see docs/detectors.md, "What a file tells"."""


class PrecisionSection(Section):
    """Numbers of the shipped network; a bare name stands for itself with defaults."""

    name: Literal["float32", "int8", "float16"] = "float32"
    """`int8`: eight-bit weights per output channel and activations; `float16`: half precision, where the provider
    gains by it. Both for heads without gradients; refused, with the numbers in the card, where they are not measured
    faster or lose too much."""
    accuracy: Share = 0.005
    """Largest loss of accuracy on calibration samples, which need labels; the test set decides nothing."""
    auroc: Share = 0.005
    """Largest loss of the energy score's AUROC on `data.validation_anomalies`; without them it is only reported."""


class BenchmarkSection(Section):
    """How latency is measured."""

    rounds: Annotated[int, Field(ge=6)] = 15
    """Every round calls each variant; ratios are taken within a round."""
    batch_sizes: list[Count] = Field(default=[1, 32], min_length=1)
    """Samples per call; targets in time use the first."""
    threads: Count = 1
    """Threads within an operator."""


class Recipe(Section):
    """One run. `prune`, `batch_norm`, `finetune` and `benchmark` may be null: that step is left out."""

    name: Name
    """Of the run; its results go to `exported/NAME`."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of everything that is drawn."""
    data_root: str | None = None
    """Folder of the published data sets and networks; `--data-root` and `SPARSENSE_DATA` come first."""
    network: NetworkSection
    """Which network."""
    data: DataSection
    """Which samples."""
    train: TrainSection | None = None
    """How the network is trained, before anything else is done with it; null: it is taken as it is."""
    sensitivity: SensitivitySection = SensitivitySection()
    """The pass that the criteria read."""
    prune: PruneSection | None = PruneSection()
    """What is removed."""
    batch_norm: BatchNormSection | None = BatchNormSection()
    """Statistics measured anew after pruning."""
    finetune: TrainingSection | None = TrainingSection()
    """Training after pruning; masks are kept."""
    heads: list[Annotated[HeadSection, BareName]] = Field(default=[HeadSection(name="fusion")], min_length=1)
    """Detection heads; the first becomes `detector.onnx`."""
    fit: FitSection = FitSection()
    """How the heads are fitted."""
    calibrate: CalibrateSection = CalibrateSection()
    """The threshold."""
    export: ExportSection = ExportSection()
    """The detector file."""
    precision: Annotated[PrecisionSection, BareName] = PrecisionSection()
    """In which numbers the shipped network computes."""
    benchmark: BenchmarkSection | None = BenchmarkSection()
    """How latency is measured."""
    robustness: RobustnessSection | None = None
    """Attacks, damage and noise; null: none."""

    @model_validator(mode="after")
    def _heads_have_names_of_their_own(self) -> Recipe:
        """Each head is written to a file that carries its name."""
        if twice := [name for name, count in Counter(h.name for h in self.heads).items() if count > 1]:
            raise ValueError(f"heads: {twice[0]!r} is listed twice; every head is written to a file of its name")
        return self

    @model_validator(mode="after")
    def _groups_are_asked_what_groups_have(self) -> Recipe:
        for index, head in enumerate(self.heads):
            others = {"explain": head.explain, "calibrate.per_class": self.calibrate.per_class != "no",
                      "robustness": self.robustness is not None}  # fmt: skip
            if head.group > 1 and (found := [key for key, asked in others.items() if asked]):
                raise ValueError(
                    f"heads.{index}.group: {found[0]} is about single inputs, and this head judges {head.group} as "
                    "one; leave one of the two out"
                )
        return self

    @model_validator(mode="after")
    def _labels_are_used_where_they_are_named(self) -> Recipe:
        search = None if self.prune is None else self.prune.search
        for key, section in {"train": self.train, "prune.search": search}.items():
            by_labels = section is not None and section.select == "val_auroc"
            if by_labels and self.data.validation_anomalies is None:
                raise ValueError(
                    f"{key}.select: val_auroc needs data.validation_anomalies: known anomalies, apart from those "
                    "measured on"
                )
        return self

    @model_validator(mode="after")
    def _steps_are_trained_like_the_fine_tuning(self) -> Recipe:
        if self.prune is not None and self.finetune is None:
            schedule = self.prune.schedule
            if schedule.dense_epochs or (schedule.name != "one_shot" and schedule.epochs):
                raise ValueError(
                    "prune.schedule: trains with the settings of finetune, which is null; give finetune, or set "
                    "epochs and dense_epochs to 0"
                )
        return self

    def to_yaml(self) -> str:
        """The recipe with every default written out; `load_recipe` reads it back as the same recipe."""
        return write_yaml(self.model_dump())
