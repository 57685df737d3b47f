"""What a hurried reader must know: what the detector costs, what it catches, what pruning cost."""

from __future__ import annotations

from sparsense.benchmark import numbers
from sparsense.benchmark.card import AccuracyRow, Card, LatencyRow, NetworkSize, ResultRow


def headlines(card: Card) -> list[str]:
    """Sentences about the first detector of the card, in the pruned variant where there is one.

    The first, not the best: a head chosen for its results on the test sets would make them look better than
    they are.
    """
    trained = "" if card.trained is None else f"{card.trained.words}."
    sentences = [_cost(card), _catch(card), trained, _pruning(card), _precision(card)]
    return [sentence for sentence in sentences if sentence]


def main_detector(card: Card) -> tuple[str, str]:
    """Variant and head of the detector that the headlines speak of."""
    head = card.detectors[0].head
    variants = [row.variant for row in card.detectors if row.head == head]
    return ("pruned" if "pruned" in variants else variants[0]), head


def final_accuracy(card: Card, variant: str, head: str | None = None) -> AccuracyRow | None:
    """The last stage of a variant on the test set: in float32, or in the precision of the detector with that head."""
    tests = {row.name for row in card.data if row.role == "test"}
    own = next((row.precision for row in card.detectors if (row.variant, row.head) == (variant, head)), "float32")
    rows = [row for row in card.accuracy if row.variant == variant and row.dataset in tests]
    rows = [row for row in rows if row.stage not in ("int8", "float16") or row.stage == own]
    return rows[-1] if rows else None


def latency_of(card: Card, variant: str, head: str | None) -> LatencyRow | None:
    """The row at the smallest batch."""
    rows = [row for row in card.latency if row.variant == variant and row.head == head]
    return min(rows, key=lambda row: (row.batch, row.threads), default=None)


def _precision(card: Card) -> str:
    found = card.quantisation
    if found is None:
        return ""
    heads = f"; used by {', '.join(found.heads)}" if found.heads else ""
    return f"{found.words}{heads}."


def _cost(card: Card) -> str:
    variant, head = main_detector(card)
    row = latency_of(card, variant, head)
    if row is None:
        return ""
    low, high = (numbers.digits(bound) for bound in row.ratio_interval)
    threads = "one thread" if row.threads == 1 else f"{row.threads} threads"
    if row.verdict == "not distinguishable":
        claim = "takes as long as the plain dense network, as far as can be told"
    else:
        claim = f"takes {numbers.digits(row.ratio)} times as long as the plain dense network"
    return (
        f"The detector {_named(variant, head)} {claim} (95 % interval {low} to {high}; batch {row.batch}, "
        f"{threads}, {numbers.digits(row.median_ms)} ms)."
    )


def _catch(card: Card) -> str:
    variant, head = main_detector(card)
    rows = [row for row in card.results if (row.variant, row.head) == (variant, head)]
    calibration = next((row for row in card.calibration if (row.variant, row.head) == (variant, head)), None)
    if not rows or calibration is None:
        return ""
    caught = _listed([f"{numbers.percent(row.detected)} of {row.dataset}" for row in rows])
    return (
        f"It flags {caught}, while {numbers.percent(calibration.realised)} of in-distribution inputs raise a "
        f"false alarm (asked: {numbers.percent(calibration.rate)})."
    )


def _pruning(card: Card) -> str:
    dense, pruned = card.network.dense, card.network.pruned
    if card.pruning is None or pruned is None:
        return ""
    removed = [
        f"{numbers.percent(1 - _kept(pruned.multiply_adds, dense.multiply_adds))} of the multiply-adds",
        f"{numbers.percent(1 - _kept(_remaining(pruned), _remaining(dense)))} of the parameters",
    ]
    parts = [f"Pruning took away {_listed(removed)}", *_accuracy_change(card), *_auroc_change(card)]
    return "; ".join(parts) + "."


def _accuracy_change(card: Card) -> list[str]:
    before, after = final_accuracy(card, "dense"), final_accuracy(card, "pruned")
    if before is None or after is None:
        return []
    if before.accuracy is not None and after.accuracy is not None:
        return [f"accuracy went from {numbers.percent(before.accuracy)} to {numbers.percent(after.accuracy)}"]
    if before.reconstruction_error is not None and after.reconstruction_error is not None:
        errors = (numbers.digits(row) for row in (before.reconstruction_error, after.reconstruction_error))
        return [f"the reconstruction error went from {' to '.join(errors)}"]
    return []


def _auroc_change(card: Card) -> list[str]:
    _, head = main_detector(card)
    changes = [row for row in card.results if row.head == head and row.auroc_change is not None]
    if not changes:
        return []
    if len(changes) == 1:
        return [f"the AUROC changed by {numbers.change(changes[0].auroc_change)} points"]
    low, high = (pick(changes, key=_change) for pick in (min, max))
    first, last = (f"{numbers.change(row.auroc_change)} ({row.dataset})" for row in (low, high))
    return [f"the AUROC changed by {first} to {last} points"]


def _change(row: ResultRow) -> float:
    return row.auroc_change or 0.0


def _kept(after: int, before: int) -> float:
    return after / before if before else 1.0


def _remaining(network: NetworkSize) -> int:
    return network.parameters if network.nonzero is None else network.nonzero


def _named(variant: str, head: str) -> str:
    return f"({head} on the {variant} network)"


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
