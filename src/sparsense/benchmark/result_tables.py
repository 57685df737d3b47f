"""The tables of measurements: detection, calibration, parity, the network's own task, latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from sparsense.benchmark import numbers
from sparsense.benchmark.card import AccuracyRow, Card, LatencyRow, ResultRow
from sparsense.benchmark.table import Table


def detection(card: Card) -> list[Table]:
    """AUROC, FPR95 and detection rate: a row per detector, a column per anomalous set."""
    return [
        _pivot(card, "AUROC, % (higher is better).", lambda row: row.auroc),
        _pivot(
            card,
            "FPR95, % (lower is better): share of anomalies accepted when 95 % of the test set is accepted.",
            lambda row: row.fpr95,
        ),
        _pivot(
            card,
            "Detected, % (higher is better): share of anomalies flagged at the calibrated threshold.",
            lambda row: row.detected,
        ),
    ]


def detection_details(card: Card) -> Table:
    """Every result with its intervals."""
    return Table(
        "All results in %, with 95 % intervals. Change: AUROC of the pruned minus that of the dense network in "
        "percentage points, on the same inputs; p: DeLong's test of no change.",
        ["head", "network", "anomalies", "n", "AUROC", "FPR95", "detected", "AUPR out", "AUPR in", "change", "p"],
        [_detail(row) for row in card.results],
        labels=3,
    )


def calibration(card: Card) -> Table:
    """What was asked of every threshold, and what came of it."""
    return Table(
        "False alarms in % of in-distribution inputs. Expected: where the rate of this very threshold lies (95 %), "
        "given the number of calibration samples. Realised: measured on the test set, with Wilson's 95 % interval.",
        ["head", "network", "asked", "calibration n", "expected", "threshold", "realised", "test n"],
        [
            [
                row.head,
                row.variant,
                numbers.points(row.rate),
                numbers.integer(row.n),
                numbers.interval(row.interval),
                "per class" if row.classes else numbers.digits(row.threshold, 5),
                f"{numbers.points(row.realised)} {numbers.interval(row.realised_interval)}",
                numbers.integer(row.realised_n),
            ]
            for row in card.calibration
        ],
        labels=2,
    )


def parity(card: Card) -> Table:
    """Every file against its oracle."""
    return Table(
        "Scores of the exported file against an independent computation: worst relative error over all batch sizes.",
        ["head", "network", "oracle", "batch sizes", "worst error", "tolerance"],
        [
            [
                row.head,
                row.variant,
                row.oracle,
                ", ".join(map(str, row.batch_sizes)),
                numbers.small(row.worst),
                numbers.small(row.tolerance),
            ]
            for row in card.parity
        ],
        labels=3,
    )


def own_task(card: Card) -> Table:
    """Accuracy or reconstruction error, stage by stage."""
    if any(row.reconstruction_error is not None for row in card.accuracy):
        caption = "The network's own task, stage by stage (lower is better)."
        return _stages(card, caption, ["reconstruction error"], lambda row: [numbers.digits(row.reconstruction_error)])
    caption = (
        "The network's own task, stage by stage. Accuracy in % with Wilson's 95 % interval; calibration error (ECE) "
        "in %, Brier score and negative log-likelihood (NLL, nats): lower is better."
    )
    return _stages(card, caption, ["accuracy", "ECE", "Brier", "NLL"], _classifier_quality)


LATENCY = "head network batch threads median quartiles p99 samples/s ratio verdict load memory"


def latency(card: Card) -> Table:
    """Times and ratios; energy where the machine counted it."""
    counted = any(row.joules is not None for row in card.latency)
    return Table(
        "Time per call in ms, and its ratio (with 95 % interval) to the plain dense forward pass in the same rounds. "
        "Quote the ratios: absolute times hold for this machine at this hour.",
        [*LATENCY.split(), *(["energy"] if counted else [])],
        [_latency_row(row) + ([_energy(row)] if counted else []) for row in card.latency],
        labels=2,
    )


def _pivot(card: Card, caption: str, value: Callable[[ResultRow], float]) -> Table:
    sets = list(dict.fromkeys(row.dataset for row in card.results))
    rows = []
    for detector in card.detectors:
        same = [row for row in card.results if (row.variant, row.head) == (detector.variant, detector.head)]
        found = {row.dataset: value(row) for row in same}
        mean = fmean(found.values()) if len(found) == len(sets) and sets else None
        cells = [numbers.points(found.get(name)) for name in sets]
        rows.append([detector.head, detector.variant, *cells, numbers.points(mean)])
    return Table(caption, ["head", "network", *sets, "mean"], rows if sets else [], labels=2)


def _detail(row: ResultRow) -> list[str]:
    return [
        row.head,
        row.variant,
        row.dataset,
        numbers.integer(row.n),
        f"{numbers.points(row.auroc)} {numbers.interval(row.auroc_interval)}",
        f"{numbers.points(row.fpr95)} {numbers.interval(row.fpr95_interval)}",
        f"{numbers.points(row.detected)} {numbers.interval(row.detected_interval)}",
        numbers.points(row.aupr_out),
        numbers.points(row.aupr_in),
        f"{numbers.change(row.auroc_change)} {numbers.change_interval(row.auroc_change_interval)}".strip(),
        numbers.p_value(row.auroc_change_p),
    ]


def _stages(card: Card, caption: str, columns: Sequence[str], quality: Callable[[AccuracyRow], list[str]]) -> Table:
    rows = [[row.variant, row.stage, row.dataset, numbers.integer(row.n), *quality(row)] for row in card.accuracy]
    return Table(caption, ["network", "stage", "data set", "n", *columns], rows, labels=3)


def _classifier_quality(row: AccuracyRow) -> list[str]:
    return [
        f"{numbers.points(row.accuracy)} {numbers.interval(row.accuracy_interval)}".strip(),
        numbers.points(row.expected_calibration_error),
        numbers.digits(row.brier),
        numbers.digits(row.negative_log_likelihood),
    ]


def _energy(row: LatencyRow) -> str:
    return numbers.NONE if row.joules is None else f"{numbers.digits(1e3 * row.joules)}\N{NO-BREAK SPACE}mJ"


def _latency_row(row: LatencyRow) -> list[str]:
    low, high = (numbers.digits(bound) for bound in row.quartiles_ms)
    ratio_low, ratio_high = (numbers.digits(bound) for bound in row.ratio_interval)
    return [
        row.head or "plain forward",
        row.variant,
        numbers.integer(row.batch),
        numbers.integer(row.threads),
        numbers.digits(row.median_ms),
        f"{low} to {high}",
        numbers.digits(row.p99_ms),
        numbers.digits(1e3 * row.batch / row.median_ms),
        numbers.ratio(row.ratio) + ("" if row.verdict == "baseline" else f" [{ratio_low}, {ratio_high}]"),
        row.verdict,
        numbers.NONE if row.load_ms is None else f"{numbers.digits(row.load_ms)}\N{NO-BREAK SPACE}ms",
        numbers.size(row.peak_bytes),
    ]
