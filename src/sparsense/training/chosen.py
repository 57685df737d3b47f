"""Which epoch of a training was kept and why: as plain values for a card, and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sparsense.training.loop import Training


def how_chosen(training: Training[Any]) -> dict[str, Any]:
    """How the epoch was chosen, for the card; epochs are counted from 1, values are None where not finite."""
    if training.selection is None:
        return {"select": "last", "uses_labels": False, "epoch": len(training.losses)}
    chosen = training.selection
    return {
        "select": chosen.rule,
        "uses_labels": chosen.rule == "val_auroc",
        "epoch": chosen.best_epoch + 1,
        "values": [round(value, 6) if math.isfinite(value) else None for value in chosen.values],
        "held_out": len(chosen.held_out.inputs),
    }


def why_chosen(chosen: Mapping[str, Any]) -> str:
    """What an epoch that was not simply the last was best at."""
    held_out = f"{chosen['held_out']:,} held-out training samples"
    if chosen["uses_labels"]:
        return f"{held_out} were told best from known anomalies (labels were used)"
    return f"the objective was smallest on {held_out}"
