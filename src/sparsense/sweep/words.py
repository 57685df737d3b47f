"""What a sweep comes to, in sentences with the command that makes it."""

from __future__ import annotations

from collections.abc import Sequence

from sparsense.benchmark import numbers
from sparsense.sweep.candidates import Candidate
from sparsense.sweep.entries import Entry
from sparsense.sweep.frontier import COSTS, Cost, Recommendation, recommend, reference

SUPERLATIVES: dict[Cost, str] = {"bytes": "Smallest", "time": "Fastest", "multiply_adds": "Fewest multiply-adds:"}
CAUTION = (
    "All numbers are of the test sets that the choice was made on: the winner of many looks a little better than it "
    "is. `sparsense compare` gives paired intervals; confirm the choice on inputs that no point has seen."
)


def sentences(entries: Sequence[Entry], *, margin: float) -> list[str]:
    """One recommendation per cost, or why there is none."""
    dense = reference(entries)
    if dense is None:
        return ["No point has ended with a detector yet; nothing can be recommended."]
    found = [recommendation(r) for cost in COSTS if (r := recommend(entries, cost, margin=margin)) is not None]
    none = (
        f"No pruned detector is within {_points(margin)} of the best dense one ({_quality(dense)}): prune less, train "
        "longer, or allow a larger margin."
    )
    return found or [none]


def recommendation(found: Recommendation) -> str:
    """Such as: Smallest detector within 0.5 points of dense: prune.sparsity=0.5, energy: ..."""
    one, dense = found.entry.candidate, found.dense
    kind = SUPERLATIVES[found.cost]
    head = f"{kind} detector" if not kind.endswith(":") else kind.removesuffix(":") + " of a detector"
    return (
        f"{head} within {_points(found.margin)} of dense: {found.entry.words}: {_price(one, dense, found.cost)}; "
        f"{_quality(one)} (dense, {dense.head}: {_quality(dense)}). Made by `{found.entry.command}`."
    )


def _price(one: Candidate, dense: Candidate, cost: Cost) -> str:
    if cost == "bytes":
        return f"{numbers.size(one.bytes)} instead of {numbers.size(dense.bytes)}"
    if cost == "time":
        before, after = numbers.ratio(dense.time), numbers.ratio(one.time)
        return f"{after} the time of the plain dense network instead of {before}"
    return f"{numbers.amount(one.multiply_adds)} multiply-adds instead of {numbers.amount(dense.multiply_adds)}"


def _quality(candidate: Candidate) -> str:
    parts = []
    if candidate.accuracy is not None:
        parts.append(f"accuracy {numbers.percent(candidate.accuracy)}")
    if candidate.auroc is not None:
        parts.append(f"AUROC {numbers.percent(candidate.auroc)}")
    return ", ".join(parts) or "nothing measured"


def _points(margin: float) -> str:
    return f"{margin * 100:g} points"
