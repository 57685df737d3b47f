"""What aligning widths has measured and chosen, kept with the piece of the job and read from there for the card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsense.benchmark.card import GroupWidth, WidthAlignment
from sparsense.pipeline.job import Job
from sparsense.pruning.aligner import Alignment

FILE = "times.json"
PIECES = ("aligned", "padded")


def write_facts(alignment: Alignment, folder: Path, *, batch: int, best: str | None = None) -> None:
    """Keep what was measured.

    Args:
        alignment: All variants.
        folder: Of the piece.
        batch: Samples per call.
        best: What was chosen, when it is not the fastest.
    """
    best = best or alignment.best
    times = {name: variant.milliseconds for name, variant in alignment.variants.items()}
    facts = {"best": best, "milliseconds": times, "batch": batch, "groups": list(_groups(alignment, best))}
    (folder / FILE).write_text(json.dumps(facts))


def read_facts(folder: Path) -> dict[str, Any]:
    """What `write_facts` has kept; `milliseconds` of one variant alone means that there was nothing to choose."""
    facts: dict[str, Any] = json.loads((folder / FILE).read_text())
    return facts


def alignment_row(job: Job) -> WidthAlignment | None:
    """For the card; None where no widths were compared."""
    folders = [job.state.folder / piece for piece in PIECES]
    facts = next((read_facts(folder) for folder in folders if (folder / FILE).is_file()), None)
    if facts is None or len(facts["milliseconds"]) == 1:
        return None
    return WidthAlignment(
        chosen=facts["best"],
        batch=facts["batch"],
        milliseconds=facts["milliseconds"],
        groups=[GroupWidth(**group) for group in facts["groups"]],
    )


def _groups(alignment: Alignment, best: str) -> Iterator[dict[str, Any]]:
    """Every group that could have another width, with what became of it."""
    before, after = alignment.variants["kept"].widths, alignment.variants[best].widths
    for name in alignment.groups:
        way = alignment.variants[best].ways.get(name)
        yield {"group": name, "before": before[name], "after": after[name], "way": "kept" if way is None else str(way)}
