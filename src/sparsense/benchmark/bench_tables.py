"""The tables of `sparsense bench`, for a terminal, for Markdown and for a page."""

from __future__ import annotations

from sparsense.benchmark import numbers
from sparsense.benchmark.bench_card import BenchCard, BenchDetector, BenchDifference, BenchResult, BenchSpeed
from sparsense.benchmark.table import Table

NO_DRIFT = 0.01
RESULT_COLUMNS = ("AUROC", "AUPR out", "AUPR in", "FPR95", "FPR95 (anomalous)", "detected", "accuracy")


def tables(card: BenchCard) -> list[Table]:
    """All that have rows, in the order of reading."""
    return [part for part in (results(card), alarms(card), differences(card), latency(card), sets(card)) if part]


def results(card: BenchCard) -> Table:
    """Every detector against every anomalous set."""
    return Table(
        "Detection in %, with 95 % intervals. AUPR out: anomalies are the positive class; AUPR in: in-distribution "
        "inputs are. FPR95: share of anomalies accepted when 95 % of in-distribution inputs are accepted; FPR95 "
        "(anomalous): share of in-distribution inputs rejected when 95 % of anomalies are caught. Detected: anomalies "
        "flagged at the calibrated threshold. Accuracy: mean of that and of in-distribution inputs not flagged.",
        ["detector", "anomalies", "n", *RESULT_COLUMNS],
        [_result(row) for row in card.results],
        labels=2,
    )


def _result(row: BenchResult) -> list[str]:
    names = ("auroc", "aupr_out", "aupr_in", "fpr95", "fpr95_anomalous", "detected", "accuracy")
    cells = [f"{numbers.points(getattr(row, n))} {numbers.interval(getattr(row, f'{n}_interval'))}" for n in names]
    return [row.detector, row.dataset, numbers.integer(row.n), *cells]


def alarms(card: BenchCard) -> Table:
    """What was asked of every threshold, and what came of it."""
    return Table(
        "False alarms in % of in-distribution inputs. Expected: where the rate of this very threshold lies (95 %), "
        "given its number of calibration inputs. Realised: on these inputs, with Wilson's 95 % interval. p: chance of "
        "at least so many if the inputs are like the calibration inputs; below 0.01 they are not, and the threshold no "
        "longer holds: recalibrate.",
        ["detector", "asked", "calibration n", "expected", "threshold", "realised", "n", "p", "note"],
        [_alarms(row) for row in card.detectors],
        labels=1,
    )


def _alarms(row: BenchDetector) -> list[str]:
    notes = []
    if row.seen is None:
        notes.append("which inputs made it is unknown")
    if row.seen:
        notes.append(f"{row.seen:,} inputs were used to make it")
    if row.not_a_number:
        notes.append(f"{row.not_a_number:,} scores are not a number")
    if row.realised_p is not None and row.realised_p < NO_DRIFT:
        notes.append("too many false alarms")
    return [
        row.name,
        numbers.points(row.rate),
        numbers.integer(row.calibration_n),
        numbers.interval(row.expected_interval),
        "per class" if row.per_class else numbers.digits(row.threshold, 5),
        f"{numbers.points(row.realised)} {numbers.interval(row.realised_interval)}",
        numbers.integer(row.n),
        numbers.p_value(row.realised_p),
        "; ".join(notes),
    ]


def differences(card: BenchCard) -> Table:
    """Pairs of detectors on the same inputs."""
    return Table(
        "Differences, second minus first, in percentage points on the same inputs, with paired 95 % bootstrap "
        "intervals. p: DeLong's test of equal AUROC, adjusted for all rows (Holm); the verdict is on AUROC.",
        ["anomalies", "first", "second", "AUROC", "FPR95", "p", "adjusted", "verdict"],
        [_difference(row) for row in card.differences],
        labels=3,
    )


def _difference(row: BenchDifference) -> list[str]:
    return [
        row.dataset,
        row.first,
        row.second,
        f"{numbers.change(row.auroc)} {numbers.change_interval(row.auroc_interval)}",
        f"{numbers.change(row.fpr95)} {numbers.change_interval(row.fpr95_interval)}",
        numbers.p_value(row.p),
        numbers.p_value(row.p_adjusted),
        row.verdict,
    ]


def latency(card: BenchCard) -> Table:
    """Times, ratios, bytes."""
    return Table(
        "Time per call in ms and its ratio to the first file in the same rounds, with 95 % interval. Quote the ratios: "
        "absolute times hold for this machine at this hour.",
        ["file", "size", "batch", "threads", "median", "quartiles", "samples/s", "ratio", "interval", "verdict"],
        [_speed(row) for row in card.latency],
        labels=1,
    )


def _speed(row: BenchSpeed) -> list[str]:
    return [
        row.file,
        numbers.size(row.bytes),
        numbers.integer(row.batch),
        numbers.integer(row.threads),
        numbers.digits(row.median_ms),
        " to ".join(map(numbers.digits, row.quartiles_ms)),
        numbers.digits(1e3 * row.batch / row.median_ms),
        numbers.ratio(row.ratio),
        " to ".join(map(numbers.digits, row.ratio_interval)),
        row.verdict,
    ]


def sets(card: BenchCard) -> Table:
    """What was scored."""
    return Table(
        "Sets of inputs.",
        ["set", "role", "n", "inputs", "SHA-256"],
        [
            [row.name, row.role.replace("_", " "), numbers.integer(row.count), ", ".join(row.inputs), row.sha256[:16]]
            for row in card.sets
        ],
        labels=2,
    )
