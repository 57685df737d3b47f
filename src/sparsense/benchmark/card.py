"""The card of a run: everything that a report says, as one strict, versioned JSON document."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sparsense.errors import InputError
from sparsense.files import atomic_write

CARD_FORMAT: Final = 1
MAX_BYTES = 64 << 20

Variant = Literal["dense", "pruned"]
Precision = Literal["float32", "int8", "float16"]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Interval = tuple[float, float]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Row(BaseModel):
    """Strict: unknown keys, NaN and infinity are errors; what is not known is null."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RecipeText(Row):
    """The recipe as it was run, with every default written out."""

    text: str
    sha256: Hash


class Machine(Row):
    """Where the run took place; `cores` are those that the process may use."""

    cpu: str
    cores: Count
    memory_bytes: Count | None = None
    features: list[str] = []
    system: str
    python: str


class DataSet(Row):
    """One set of samples and what it was for. `name` is the key that the other rows use.

    `calibration` sets thresholds and nothing else, `test` is the in-distribution set that everything is
    measured on, each `anomalous` set is held against it, and nothing is learnt from an `unused` one.
    """

    name: str
    role: Literal["train", "calibration", "test", "anomalous", "unused"]
    source: str
    count: Count
    sha256: Hash


class NetworkSize(Row):
    """One variant of the network, without head. `bytes` is the forward ONNX file.

    Args:
        parameters: Numbers that can be trained, zeros included.
        nonzero: Of these, how many are not 0.
        multiply_adds: Of one sample, dense kernels.
        widths: Layer -> number of output channels.
    """

    parameters: Count
    nonzero: Count | None = None
    multiply_adds: Count
    widths: dict[str, Count]
    bytes: Count
    gzip_bytes: Count | None = None


class Networks(Row):
    """Where the network came from, and its size before and after."""

    source: str
    task: Literal["classifier", "reconstruction"]
    dense: NetworkSize
    pruned: NetworkSize | None = None


class GroupWidth(Row):
    """Layers that share their output channels, by the first of them: its width and what became of it."""

    group: str
    before: Count
    after: Count
    way: str


class WidthAlignment(Row):
    """Which widths ONNX Runtime was fastest with.

    Args:
        chosen: One of the names of `milliseconds`.
        batch: Samples per call.
        milliseconds: Variant -> median time of a forward pass, all measured in turns.
        groups: Those whose width could have been changed.
    """

    chosen: str
    batch: Count
    milliseconds: dict[str, Positive]
    groups: list[GroupWidth]


class Trained(Row):
    """How the network was trained in this run, and which epoch was kept.

    Args:
        words: All of it in a sentence.
        losses: Mean loss of each epoch.
        select: By what the epoch was chosen.
        uses_labels: Whether known anomalies had a say: results are then not those of training on normal samples alone.
        epoch: The one that was kept, counted from 1.
        values: What it was chosen by, after each epoch; null where it was not a number.
        held_out: Training samples that were held out for it.
    """

    words: str
    losses: list[float]
    select: Literal["last", "val_loss", "val_auroc"]
    uses_labels: bool
    epoch: Count
    values: list[float | None] = []
    held_out: Count = 0


class Pruning(Row):
    """What was removed. `proof` says in words what was verified, such as removed = masked, to which error."""

    criterion: str
    structure: Literal["weight", "channel"]
    scope: str
    target: str
    reached: dict[str, float]
    proof: str
    alignment: WidthAlignment | None = None


class Quantisation(Row):
    """The shipped network in INT8 or float16 against float32: measured, and accepted or refused.

    Args:
        words: All of it in a sentence, with the reason of a refusal.
        heads: Detectors that use it; those that take gradients stay in float32.
        accuracy: Float32, fewer bits.
        auroc: The same, of the energy score over all anomalies.
        ratio: Time of fewer bits by that of float32.
        bytes: Of both networks.
    """

    accepted: bool
    words: str
    heads: list[str]
    accuracy: tuple[Share, Share]
    auroc: tuple[Share, Share] | None = None
    ratio: Positive
    ratio_interval: Interval
    bytes: tuple[Count, Count]


class Detector(Row):
    """One exported file: a variant of the network with a head."""

    variant: Variant
    head: str
    file: str
    bytes: Count
    gzip_bytes: Count | None = None
    sha256: Hash
    precision: Precision = "float32"


class ClassThreshold(Row):
    """The threshold of one predicted class; `pooled`: that of all samples, as the class had too few."""

    label: Count
    threshold: float
    n: Count
    interval: Interval
    pooled: bool


class CalibrationRow(Row):
    """One threshold: what was asked, and what the test set says came of it.

    Args:
        rate: Asked false-alarm rate.
        n: Calibration samples.
        interval: Where the rate of this threshold lies given n alone, with 95 % probability.
        realised: Share of the test set that was flagged.
        realised_n: Size of the test set.
        realised_interval: Wilson's 95 % interval of `realised`.
        classes: Where each predicted class has a threshold of its own; `threshold` is that of all samples then.
    """

    variant: Variant
    head: str
    rate: Annotated[float, Field(gt=0, lt=1)]
    threshold: float
    n: Count
    interval: Interval
    realised: Share
    realised_n: Count
    realised_interval: Interval
    classes: list[ClassThreshold] | None = None


class ParityRow(Row):
    """A detector file against its oracle: the worst relative error over all batch sizes."""

    variant: Variant
    head: str
    oracle: str
    batch_sizes: list[Count]
    worst: Annotated[float, Field(ge=0)]
    tolerance: Positive


class AccuracyRow(Row):
    """How well a variant does its own task: classifiers have an accuracy, autoencoders an error.

    `stage` orders the rows of one variant: `as loaded`, `pruned`, `batch norm re-estimated`, `fine-tuned`, `exported`,
    `int8` or `float16`.
    """

    variant: Variant
    stage: str
    dataset: str
    n: Count
    accuracy: Share | None = None
    accuracy_interval: Interval | None = None
    expected_calibration_error: Share | None = None
    brier: Annotated[float, Field(ge=0, le=2)] | None = None
    negative_log_likelihood: Annotated[float, Field(ge=0)] | None = None
    reconstruction_error: Annotated[float, Field(ge=0)] | None = None


class ResultRow(Row):
    """How well one detector tells one anomalous set from the test set.

    Args:
        fpr95: Share of anomalies accepted when 95 % of the test set is accepted.
        detected: Share of anomalies flagged at the calibrated threshold.
        auroc_change: Pruned minus dense on the same inputs; only in rows of the pruned variant.
        auroc_change_p: DeLong's p-value of no change.
    """

    variant: Variant
    head: str
    dataset: str
    n: Count
    n_in_distribution: Count
    auroc: Share
    auroc_interval: Interval
    fpr95: Share
    fpr95_interval: Interval
    aupr_in: Share | None = None
    aupr_out: Share | None = None
    detected: Share
    detected_interval: Interval
    auroc_change: float | None = None
    auroc_change_interval: Interval | None = None
    auroc_change_p: Share | None = None


class StressRow(Row):
    """What is left of a detector, or (`head` null) of the classifier, when inputs are attacked, damaged or noisy.

    Args:
        kind: `clean`: as they are; `attack`; `corruption`; `certificate`: what no attack can take away.
        name: Of the attack or the damage.
        dataset: What was moved: the test set, or (for `hiding` and certificates of detection) anomalies.
        norm: Of the radius.
        strength: Radius in the unit of inputs in [0, 1], or severity.
        measure: `accuracy`; `detected`: flagged; `defended`: rightly classified or flagged; `auroc`: moved inputs
            against the same inputs as they were.
    """

    variant: Variant
    head: str | None
    kind: Literal["clean", "attack", "corruption", "certificate"]
    name: str
    dataset: str
    norm: Literal["linf", "l2"] | None = None
    strength: Annotated[float, Field(ge=0)]
    measure: Literal["accuracy", "detected", "defended", "auroc"]
    value: Share
    interval: Interval | None = None
    n: Count


class LatencyRow(Row):
    """One timed variant; `head` null is the plain forward pass. `ratio` is to the plain dense forward pass.

    The baseline itself (dense, no head) has ratio 1 and the verdict `baseline`. `joules`: of the processors, per
    sample, where they are counted.
    """

    variant: Variant
    head: str | None
    batch: Annotated[int, Field(ge=1)]
    threads: Annotated[int, Field(ge=1)]
    rounds: Count
    median_ms: Positive
    quartiles_ms: Interval
    p99_ms: Positive
    ratio: Positive
    ratio_interval: Interval
    verdict: Literal["baseline", "faster", "slower", "not distinguishable"]
    load_ms: Positive | None = None
    peak_bytes: Count | None = None
    joules: Positive | None = None


class Layer(Row):
    """One layer before and after: widths, and root mean square elasticity (of w * dL/dw, over weights and samples)."""

    name: str
    width_before: Count
    width_after: Count | None = None
    sensitivity_before: Annotated[float, Field(ge=0)] | None = None
    sensitivity_after: Annotated[float, Field(ge=0)] | None = None


class Example(Row):
    """One input that an explanation shows: its place in its set."""

    dataset: str
    index: Count
    score: float


class Explanation(Row):
    """What a detector's scores are made of; the numbers are in `explanations.npz`.

    Args:
        kind: What the parts are: `layers`, `features`, `members`, `terms`; None where the score has none.
        names: Of the parts.
        map: What the map of an image shows, or why there is none.
        error: Largest difference between the sum of the parts and the score, relative to their magnitudes.
        examples: In the order of the arrays.
    """

    variant: Variant
    head: str
    kind: str | None = None
    names: list[str] = []
    map: str
    error: float | None = None
    examples: list[Example]


class Card(Row):
    """One run. Lists may be empty and parts null where a run left a step out; the report then does, too."""

    format: Literal[1] = CARD_FORMAT
    name: str
    created: str
    seed: int
    recipe: RecipeText
    versions: dict[str, str]
    machine: Machine
    data: list[DataSet]
    network: Networks
    trained: Trained | None = None
    pruning: Pruning | None = None
    quantisation: Quantisation | None = None
    detectors: list[Detector]
    accuracy: list[AccuracyRow] = []
    layers: list[Layer] = []
    calibration: list[CalibrationRow]
    parity: list[ParityRow]
    results: list[ResultRow]
    latency: list[LatencyRow] = []
    robustness: list[StressRow] = []
    explanations: list[Explanation] = []
    notes: list[str] = []

    @model_validator(mode="after")
    def _rows_fit_together(self) -> Card:
        """Rows name detectors and data sets that are there."""
        detectors = {(row.variant, row.head) for row in self.detectors}
        sets = {row.name for row in self.data}
        for part in ("calibration", "parity", "results"):
            for row in getattr(self, part):
                if (row.variant, row.head) not in detectors:
                    raise ValueError(f"{part} names the detector {row.variant}/{row.head}, which is not in detectors")
        for result in self.results:
            if result.dataset not in sets:
                raise ValueError(f"results name the data set {result.dataset!r}, which is not in data")
        return self

    def save(self, path: str | Path) -> None:
        """Write `card.json`."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def load_card(path: str | Path) -> Card:
    """Read a `card.json`.

    Raises:
        InputError: No such file, another format, or fields that are missing, unknown or out of range.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no card {file}; a run writes it beside its detectors")
    if file.stat().st_size > MAX_BYTES:
        raise InputError(f"{file} is refused: {file.stat().st_size:,} bytes; the limit for a card is {MAX_BYTES:,}")
    try:
        return Card.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole document"
        raise InputError(
            f"{file} is not a card of format {CARD_FORMAT}: {where}: {first['msg']} "
            f"({error.error_count()} problem(s) in all)"
        ) from error
