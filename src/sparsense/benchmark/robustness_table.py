"""What is left under attack, damage and noise, as a table, and as one number per kind."""

from __future__ import annotations

from statistics import fmean

from sparsense.benchmark import numbers
from sparsense.benchmark.card import Card, StressRow, Variant
from sparsense.benchmark.table import Table


def robustness(card: Card) -> Table:
    """Every stress; dense and pruned side by side."""
    columns = list(dict.fromkeys((row.variant, row.head) for row in card.robustness))
    found: dict[tuple[str, ...], dict[tuple[str, str | None], StressRow]] = {}
    for row in card.robustness:
        found.setdefault(_label(row), {})[row.variant, row.head] = row
    return Table(
        "Shares in % (AUROC, too: moved inputs against the same inputs as they were). Accuracy is the network's own; "
        "detected: flagged; defended: rightly classified or flagged. Radii are for pixels in [0, 1]; an attacker may "
        "also do nothing, and knows the network, of 'evasion' and 'hiding' also the detector.",
        ["stress", "strength", "inputs", "measure", *(f"{variant} {head or 'network'}" for variant, head in columns)],
        [[*label, *(_shown(cells.get(column)) for column in columns)] for label, cells in found.items()],
        labels=4,
    )


def robust_accuracy(card: Card, variant: Variant) -> float | None:
    """The lowest accuracy under any attack that was made."""
    return min(_values(card, variant, None, "attack", "accuracy"), default=None)


def corrupted_accuracy(card: Card, variant: Variant) -> float | None:
    """The mean accuracy over all damages that were done."""
    return _mean(_values(card, variant, None, "corruption", "accuracy"))


def certified_accuracy(card: Card, variant: Variant) -> float | None:
    """The accuracy that is certified to the largest radius that was asked for."""
    return min(_values(card, variant, None, "certificate", "accuracy"), default=None)


def defended(card: Card, variant: Variant, head: str) -> float | None:
    """The lowest share, under any attack, of inputs that are rightly classified or flagged."""
    return min(_values(card, variant, head, "attack", "defended"), default=None)


def found_when_hiding(card: Card, variant: Variant, head: str) -> float | None:
    """The lowest share of anomalies that are found although they know the detector."""
    rows = [row for row in card.robustness if row.name == "hiding"]
    return min((row.value for row in rows if (row.variant, row.head) == (variant, head)), default=None)


def _values(card: Card, variant: Variant, head: str | None, kind: str, measure: str) -> list[float]:
    asked = (variant, head, kind, measure)
    return [row.value for row in card.robustness if (row.variant, row.head, row.kind, row.measure) == asked]


def _mean(values: list[float]) -> float | None:
    return fmean(values) if values else None


def _label(row: StressRow) -> tuple[str, ...]:
    if row.kind == "clean":
        return "none", "", row.dataset, row.measure
    name = f"{row.name} ({row.norm})" if row.norm is not None else row.name
    return name, f"{row.strength:.3g}", row.dataset, row.measure


def _shown(row: StressRow | None) -> str:
    return numbers.NONE if row is None else numbers.points(row.value)
