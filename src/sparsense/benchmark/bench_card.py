"""What `sparsense bench` measured: detectors on data sets, as one strict JSON document."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sparsense.benchmark.card import Count, Hash, Interval, Machine, Positive, Row, Share
from sparsense.files import atomic_write


class BenchSet(Row):
    """One set of inputs. `inputs` is what was named on the command line."""

    name: str
    role: Literal["in_distribution", "anomalous"]
    inputs: list[str]
    count: Count
    sha256: Hash


class BenchDetector(Row):
    """One detector, and what its threshold came to on the in-distribution set.

    Args:
        rate: Asked false-alarm rate.
        per_class: Whether each predicted class has a threshold of its own.
        calibration_n: Calibration inputs behind the threshold.
        expected_interval: Where the rate of this very threshold lies given their number, with 95 % probability. None
            where thresholds are per class.
        false_alarms: Of `n` in-distribution inputs.
        realised: Their share, with Wilson's interval.
        realised_p: Probability of at least so many false alarms if the inputs are like the calibration inputs. A small
            one says that they are not. None where thresholds are per class.
        seen: In-distribution inputs that the detector was fitted or calibrated on: their scores flatter it. An
            estimate for a detector that was made from more than 100,000 inputs; None where it does not know.
        not_a_number: Inputs of all sets whose score is not a number; they count as most anomalous.
    """

    file: str
    name: str
    bytes: Count
    sha256: Hash
    rate: Annotated[float, Field(gt=0, lt=1)]
    threshold: float
    per_class: bool
    calibration_n: Count
    expected_interval: Interval | None
    false_alarms: Count
    n: Count
    realised: Share
    realised_interval: Interval
    realised_p: Share | None
    seen: Count | None
    not_a_number: Count


class BenchResult(Row):
    """One detector against one anomalous set. Intervals are 95 % bootstrap percentiles, those of shares Wilson's.

    Args:
        aupr_out: Average precision with anomalies as the positive class.
        aupr_in: With in-distribution inputs as the positive class.
        fpr95: Share of anomalies accepted where 95 % of in-distribution inputs are accepted.
        fpr95_anomalous: Share of in-distribution inputs rejected where 95 % of anomalies are caught.
        detected: Share of anomalies flagged at the calibrated threshold.
        accuracy: Detection accuracy at it: mean of `detected` and (1 - realised false-alarm rate).
    """

    detector: str
    dataset: str
    n: Count
    n_in_distribution: Count
    auroc: Share
    auroc_interval: Interval
    aupr_out: Share
    aupr_out_interval: Interval
    aupr_in: Share
    aupr_in_interval: Interval
    fpr95: Share
    fpr95_interval: Interval
    fpr95_anomalous: Share
    fpr95_anomalous_interval: Interval
    detected: Share
    detected_interval: Interval
    accuracy: Share
    accuracy_interval: Interval


class BenchDifference(Row):
    """`second` minus `first` on the same inputs.

    Args:
        p: DeLong's p-value of equal AUROC; None for a set of a single input.
        p_adjusted: The same by Holm's method over all rows: one of them is below 0.05 by chance in at most 5 % of runs.
    """

    dataset: str
    first: str
    second: str
    auroc: float
    auroc_interval: Interval
    fpr95: float
    fpr95_interval: Interval
    p: Share | None
    p_adjusted: Share | None
    verdict: Literal["better", "worse", "not distinguishable"]


class BenchSpeed(Row):
    """How long one file takes; `ratio` is to the first file."""

    file: str
    bytes: Count
    batch: Annotated[int, Field(ge=1)]
    threads: Annotated[int, Field(ge=1)]
    median_ms: Positive
    quartiles_ms: Interval
    p99_ms: Positive
    ratio: Positive
    ratio_interval: Interval
    verdict: Literal["baseline", "faster", "slower", "not distinguishable"]
    rounds: Count
    repeats: Count


class BenchCard(Row):
    """One comparison."""

    format: Literal[1] = 1
    created: str
    versions: dict[str, str]
    machine: Machine
    sets: list[BenchSet]
    detectors: list[BenchDetector]
    results: list[BenchResult]
    differences: list[BenchDifference]
    latency: list[BenchSpeed]

    def save(self, path: str | Path) -> None:
        """Write it as JSON."""
        with atomic_write(path) as temporary:
            temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
