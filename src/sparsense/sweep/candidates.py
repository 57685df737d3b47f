"""What a card says about each of its detectors, in the few numbers that a decision needs."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import Any

from sparsense.benchmark import robustness_table
from sparsense.benchmark.card import (
    AccuracyRow,
    Card,
    Count,
    LatencyRow,
    Positive,
    Precision,
    ResultRow,
    Row,
    Share,
    Variant,
)
from sparsense.benchmark.headline import final_accuracy, latency_of


class Candidate(Row):
    """One detector of one point.

    Args:
        file: Of the detector, in the folder of its run.
        auroc: Mean over the anomalous sets; `auroc_worst` is the lowest of them, `fpr95` a mean again.
        false_alarms: Share of the test set that is flagged, `asked` the rate that it was calibrated for.
        robust_accuracy: The network's lowest accuracy under an attack; `corrupted_accuracy` the mean over damages,
            `certified_accuracy` that at the largest certified radius.
        defended: Lowest share of attacked inputs that are rightly classified or flagged; `hidden` that of anomalies
            that are found although they know the detector.
        time: Ratio to the plain dense forward pass of the same run, measured in turns at the smallest batch.
        time_interval: 95 % interval of `time`.
        milliseconds: Median, as the clock showed it; comparable within a run only, unless measured together.
        together: Whether times are of the joint measurement of all finalists.
        bytes: Of the detector file, without its card; `gzip_bytes` compressed.
        peak_bytes: Memory that running it adds, at the smallest batch; `joules` per sample, where they are counted.
        multiply_adds: Of the forward pass of one sample, without head.
    """

    variant: Variant
    head: str
    precision: Precision = "float32"
    file: str
    accuracy: Share | None = None
    calibration_error: Share | None = None
    reconstruction_error: float | None = None
    auroc: Share | None = None
    auroc_worst: Share | None = None
    fpr95: Share | None = None
    detected: Share | None = None
    false_alarms: Share | None = None
    asked: Share | None = None
    robust_accuracy: Share | None = None
    corrupted_accuracy: Share | None = None
    certified_accuracy: Share | None = None
    defended: Share | None = None
    hidden: Share | None = None
    time: Positive | None = None
    time_interval: tuple[float, float] | None = None
    milliseconds: Positive | None = None
    together: bool = False
    bytes: Count
    gzip_bytes: Count | None = None
    peak_bytes: Count | None = None
    joules: Positive | None = None
    parameters: Count
    multiply_adds: Count


def candidates(card: Card) -> list[Candidate]:
    """Every detector of a card, in its order."""
    return [_candidate(card, row.variant, row.head) for row in card.detectors]


def _candidate(card: Card, variant: Variant, head: str) -> Candidate:
    detector = next(row for row in card.detectors if (row.variant, row.head) == (variant, head))
    size = card.network.pruned if variant == "pruned" and card.network.pruned is not None else card.network.dense
    results = [row for row in card.results if (row.variant, row.head) == (variant, head)]
    alarms = next((row for row in card.calibration if (row.variant, row.head) == (variant, head)), None)
    accuracy, time = final_accuracy(card, variant, head), latency_of(card, variant, head)
    return Candidate(
        variant=variant,
        head=head,
        file=detector.file,
        precision=detector.precision,
        bytes=detector.bytes,
        gzip_bytes=detector.gzip_bytes,
        parameters=size.parameters,
        multiply_adds=size.multiply_adds,
        false_alarms=None if alarms is None else alarms.realised,
        asked=None if alarms is None else alarms.rate,
        **_quality(accuracy, results),
        **_robustness(card, variant, head),
        **_speed(time),
    )


def _quality(accuracy: AccuracyRow | None, results: list[ResultRow]) -> dict[str, Any]:
    return {
        "accuracy": None if accuracy is None else accuracy.accuracy,
        "calibration_error": None if accuracy is None else accuracy.expected_calibration_error,
        "reconstruction_error": None if accuracy is None else accuracy.reconstruction_error,
        "auroc": _mean(row.auroc for row in results),
        "auroc_worst": min((row.auroc for row in results), default=None),
        "fpr95": _mean(row.fpr95 for row in results),
        "detected": _mean(row.detected for row in results),
    }


def _robustness(card: Card, variant: Variant, head: str) -> dict[str, Any]:
    return {
        "robust_accuracy": robustness_table.robust_accuracy(card, variant),
        "corrupted_accuracy": robustness_table.corrupted_accuracy(card, variant),
        "certified_accuracy": robustness_table.certified_accuracy(card, variant),
        "defended": robustness_table.defended(card, variant, head),
        "hidden": robustness_table.found_when_hiding(card, variant, head),
    }


def _speed(row: LatencyRow | None) -> dict[str, Any]:
    if row is None:
        return {}
    known = {"time": row.ratio, "time_interval": row.ratio_interval, "milliseconds": row.median_ms}
    return {**known, "peak_bytes": row.peak_bytes, "joules": row.joules}


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return fmean(numbers) if numbers else None
