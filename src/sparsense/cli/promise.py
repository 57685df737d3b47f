"""What a calibration promises, in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def promise(calibration: Mapping[str, Any]) -> str:
    """Threshold, rate, and where the realised rate may lie.

    Example:
        >>> promise({"threshold": 1.5, "rate": 0.05, "interval": (0.017, 0.1)})
        'threshold 1.5 for 5.00% false alarms (95 % of such thresholds realise 1.70% to 10.00%)'
    """
    if "classes" in calibration:
        return _per_class(calibration["classes"], calibration["rate"])
    low, high = calibration["interval"]
    return (
        f"threshold {calibration['threshold']:.6g} for {calibration['rate']:.2%} false alarms "
        f"(95 % of such thresholds realise {low:.2%} to {high:.2%})"
    )


def left_out(card: Mapping[str, Any]) -> list[str]:
    """What calibration inputs were not used, as lines for a person.

    Example:
        >>> left_out({"data": {"calibration": {"left_out": 3}}})
        ['3 calibration inputs left out: the head was fitted on equal ones']
    """
    count = ((card.get("data") or {}).get("calibration") or {}).get("left_out", 0)
    return [f"{count:,} calibration inputs left out: the head was fitted on equal ones"] if count else []


def _per_class(rows: list[Mapping[str, Any]], rate: float) -> str:
    own = [row for row in rows if not row["pooled"]]
    shared = len(rows) - len(own)
    thresholds = [row["threshold"] for row in rows]
    text = (
        f"thresholds {min(thresholds):.6g} to {max(thresholds):.6g} for {rate:.2%} false alarms in each of "
        f"{len(own)} predicted classes"
    )
    return text + (f"; {shared} with too few samples share the threshold of all" if shared else "")
