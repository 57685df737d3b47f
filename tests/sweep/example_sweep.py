"""A store as a sweep leaves it behind: invented cards of several points, one failure."""

from __future__ import annotations

from pathlib import Path

from benchmark.example_run import make_card, make_scores
from sparsense.sweep.store import Store
from sparsense.sweep.task import facts

SPARSITIES = (0.3, 0.5, 0.7)
BASE = """
name: base
network: {source: digits_resnet}
data:
  train: {source: digits, split: train}
  calibration: {source: digits, split: calibration}
  test: {source: digits, split: test}
"""
NAME = "example</script><script>alert(2)</script>"
REASON = "layer conv1 cannot be <script>alert(1)</script> pruned\nin two lines"


def fill(store: Store, folder: Path, *, jobs: int = 1) -> None:
    """Three points that are done, smaller and worse from one to the next, and one that failed."""
    keys = [f"{number:064x}" for number in range(4)]
    store.append("sweep", name=NAME, text="name: example\n", points=keys, jobs=jobs)
    base = make_card(make_scores())
    for key, sparsity in zip(keys, SPARSITIES, strict=False):
        place = folder / "points" / f"example-{sparsity}"
        place.mkdir(parents=True)
        card = base.model_copy(update={"detectors": [smaller(row, sparsity) for row in base.detectors]})
        card.save(place / "card.json")
        store.append("done", key, values={"prune.sparsity": sparsity}, seconds=2.0, **facts(card, place))
    store.append("failed", keys[3], values={"prune.sparsity": 0.99}, seconds=1.0, reason=REASON)


def smaller(row, sparsity):
    if row.variant == "dense":
        return row
    return row.model_copy(update={"bytes": int(row.bytes * (1 - sparsity))})
