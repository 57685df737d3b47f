"""Two detectors on the same inputs: every measure as a difference with its interval."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparsense.benchmark import numbers
from sparsense.benchmark.bench import Contestant, Judged, difference_rows
from sparsense.benchmark.card import CalibrationRow, Card, Row, load_card
from sparsense.benchmark.headline import final_accuracy, latency_of, main_detector
from sparsense.benchmark.metrics import Array, auroc, fpr95
from sparsense.benchmark.score_file import ScoreKey, read_scores
from sparsense.benchmark.table import Table
from sparsense.benchmark.uncertainty import Estimate
from sparsense.errors import InputError
from sparsense.sweep.shares import independent_difference, paired_difference


class Difference(Row):
    """Second minus first, as shares.

    Args:
        interval: 95 %.
        paired: Whether the interval uses that the inputs are the same.
        p: Of AUROC: DeLong's p-value, adjusted for all sets (Holm).
    """

    measure: str
    dataset: str
    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    paired: bool
    p: float | None = None

    @property
    def told_apart(self) -> bool:
        """Whether the interval leaves 0 out; of AUROC, whether the adjusted p-value is below 0.05."""
        return self.p < 0.05 if self.p is not None else not self.interval[0] <= 0 <= self.interval[1]


class Side(NamedTuple):
    """One of the two: its card, which of its detectors is meant, its scores."""

    card: Card
    variant: str
    head: str
    scores: dict[ScoreKey, Array]

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.card.name}: {self.head} on the {self.variant} network"


def open_side(folder: str | Path, *, head: str | None = None, variant: str | None = None) -> Side:
    """A detector of a run: the one to ship, unless another is asked for.

    Raises:
        InputError: No run, or none of its detectors fits.
    """
    place = Path(folder)
    card = load_card(place / "card.json")
    shipped, first = main_detector(card)
    wanted = (variant or shipped, head or first)
    present = [(row.variant, row.head) for row in card.detectors]
    if wanted not in present:
        listed = ", ".join("/".join(pair) for pair in present)
        raise InputError(f"{place} has no detector {'/'.join(wanted)}; it has {listed}")
    return Side(card, *wanted, read_scores(place / "scores.npz"))


def compare_sides(first: Side, second: Side, *, seed: int = 0) -> list[Difference]:
    """All differences that the two runs have the numbers for.

    Raises:
        InputError: The test sets differ, or no set of anomalies is the same in both.
    """
    sets = common_sets(first.card, second.card)
    one, two = (_contestant(side, sets, name) for side, name in ((first, "first"), (second, "second")))
    accuracy = _accuracy(first, second)
    flags = all(_calibration(side).classes is None for side in (first, second))  # scores do not say the class
    return [*accuracy, *compare_contestants(one, two, seed=seed, flags=flags)]


def compare_contestants(
    first: Contestant, second: Contestant, *, seed: int = 0, flags: bool = True
) -> list[Difference]:
    """Differences of separation and, where verdicts are known, of false alarms and of detection on the same inputs."""
    rows = list(_separation(first, second, seed))
    if not flags:
        return rows
    rows.append(_flagged("false alarms", "test", first.usual, second.usual))
    rows += [_flagged("detected", name, first.anomalous[name], second.anomalous[name]) for name in first.anomalous]
    return rows


def common_sets(first: Card, second: Card) -> list[str]:
    """Anomalous sets that hold the same inputs in both runs; the test sets must."""
    hashes = [
        {row.name: row.sha256 for row in card.data if row.role in ("test", "anomalous")} for card in (first, second)
    ]
    if hashes[0].get("test") != hashes[1].get("test"):
        raise InputError(
            f"comparing {first.name} and {second.name}: their test sets hold different inputs, so nothing is paired; "
            "run both on the same data, or give the detectors with --in-distribution and --anomalous"
        )
    same = [name for name, value in hashes[0].items() if name != "test" and hashes[1].get(name) == value]
    if not same:
        raise InputError(f"comparing {first.name} and {second.name}: no set of anomalies is the same in both")
    return same


def costs(first: Side, second: Side) -> Table:
    """What both cost; times are ratios to the dense network of the same run."""
    rows = []
    for side in (first, second):
        size = side.card.network.pruned if side.variant == "pruned" else side.card.network.dense
        detector = next(r for r in side.card.detectors if (r.variant, r.head) == (side.variant, side.head))
        time = latency_of(side.card, side.variant, side.head)
        multiply_adds = None if size is None else size.multiply_adds
        rows.append(
            [
                side.name,
                numbers.size(detector.bytes),
                numbers.amount(multiply_adds),
                numbers.ratio(None if time is None else time.ratio),
            ]
        )
    return Table("Costs.", ["detector", "bytes", "multiply-adds", "time / dense"], rows, labels=1)


def table(rows: list[Difference]) -> Table:
    """The differences for people."""
    return Table(
        "Second minus first in percentage points with 95 % intervals; paired: on the same inputs. Told apart: the "
        "interval leaves out 0; for AUROC, DeLong's test over all sets (Holm) is below 0.05.",
        ["measure", "inputs", "first, %", "second, %", "difference", "interval", "paired", "told apart"],
        [_cells(row) for row in rows],
        labels=2,
    )


def _cells(row: Difference) -> list[str]:
    return [
        row.measure,
        row.dataset,
        numbers.points(row.first),
        numbers.points(row.second),
        numbers.change(row.difference, 2),
        numbers.change_interval(row.interval, 2),
        *("yes" if answer else "no" for answer in (row.paired, row.told_apart)),
    ]


def _contestant(side: Side, sets: list[str], name: str) -> Contestant:
    threshold = _calibration(side).threshold
    usual, *anomalous = (_judged(side, part, threshold) for part in ("test", *sets))
    return Contestant(name, usual, dict(zip(sets, anomalous, strict=True)))


def _calibration(side: Side) -> CalibrationRow:
    for row in side.card.calibration:
        if (row.variant, row.head) == (side.variant, side.head):
            return row
    raise InputError(f"the card of {side.card.name} has no threshold of {side.variant}/{side.head}")


def _judged(side: Side, dataset: str, threshold: float) -> Judged:
    key = ScoreKey(side.variant, side.head, dataset)
    if key not in side.scores:
        raise InputError(f"scores.npz of {side.card.name} has no array {'/'.join(key)}, which its card speaks of")
    values = side.scores[key]
    return Judged.of(values, ~(np.asarray(values, np.float32) <= np.float32(threshold)))


def _separation(first: Contestant, second: Contestant, seed: int) -> Iterator[Difference]:
    for row in difference_rows([first, second], seed=seed):
        pairs = first.pair(row.dataset), second.pair(row.dataset)
        p = 1.0 if row.p_adjusted is None else row.p_adjusted  # a single input tells nothing apart
        yield _row("AUROC", row.dataset, [auroc(*pair) for pair in pairs], row.auroc, row.auroc_interval, p=p)
        yield _row("FPR95", row.dataset, [fpr95(*pair) for pair in pairs], row.fpr95, row.fpr95_interval)


def _flagged(measure: str, dataset: str, first: Judged, second: Judged) -> Difference:
    found = paired_difference(first.flags, second.flags)
    shares = [float(one.flags.mean()) for one in (first, second)]
    return _row(measure, dataset, shares, found.value, found.interval)


def _accuracy(first: Side, second: Side) -> list[Difference]:
    """A run keeps how many were right, not which: the interval is that of independent inputs."""
    rows = [final_accuracy(side.card, side.variant, side.head) for side in (first, second)]
    known = [(row.accuracy, row.n) for row in rows if row is not None and row.accuracy is not None]
    if len(known) < 2:
        return []
    found: Estimate = independent_difference(*((round(share * n), n) for share, n in known))
    return [_row("accuracy", "test", [share for share, _ in known], found.value, found.interval, paired=False)]


def _row(
    measure: str, dataset: str, shares: list[float], difference: float, interval: tuple[float, float], **more: Any
) -> Difference:
    return Difference(
        measure=measure, dataset=dataset, first=shares[0], second=shares[1], difference=difference, interval=interval,
        **{"paired": True, **more},
    )  # fmt: skip
