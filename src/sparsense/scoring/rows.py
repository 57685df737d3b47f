"""What a detector says about each input, as rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sparsense.errors import InputError
from sparsense.runtime import ExportedDetector
from sparsense.scoring.reading import Batch
from sparsense.scoring.writing import Row


def score_rows(
    detector: ExportedDetector, batches: Iterable[Batch], threshold: float | None = None, *, explain: bool = False
) -> Iterator[Row]:
    """`input`, `score`, `p_value`, `is_anomaly`, and `parts` where explanations were asked for; in order.

    Args:
        detector: The detector.
        batches: Names and inputs.
        threshold: Replaces the calibrated one.
        explain: Say what each score is made of.

    Raises:
        InputError: An input that the detector does not take; explanations that it does not have.
    """
    parts = part_names(detector) if explain else []
    for names, batch in batches:
        found = detector(batch, threshold=threshold, explain=explain)
        columns = zip(names, found.score, found.p_value, found.is_anomaly, strict=True)
        for index, (name, value, p, anomaly) in enumerate(columns):
            row = {"input": name, "score": float(value), "p_value": float(p), "is_anomaly": bool(anomaly)}
            if found.explanation is not None:
                row["parts"] = dict(zip(parts, map(float, found.explanation[index]), strict=True))
            yield row


def part_names(detector: ExportedDetector) -> list[str]:
    """What the numbers of `explanation` belong to."""
    names: list[str] = (detector.card.get("explanation") or {}).get("names", [])
    if "explanation" not in detector.explanations or not names:
        raise InputError(
            f"{detector.path.name} cannot say what its scores are made of: its head has no parts that add up, or was "
            "attached without --explain"
        )
    return names
