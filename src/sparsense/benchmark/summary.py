"""The short form of a report: what fits on a screen after a run, and into a page of numbers."""

from __future__ import annotations

from sparsense.benchmark import overview_table, result_tables
from sparsense.benchmark.card import Card
from sparsense.benchmark.headline import headlines


def summary(card: Card) -> str:
    """Headlines, dense against pruned, detection and latency, as Markdown."""
    tables = [overview_table.overview(card), *result_tables.detection(card), result_tables.latency(card)]
    sentences = "\n".join(f"- {sentence}" for sentence in headlines(card))
    return "\n".join([f"# {card.name}", "", sentences, "", *(table.to_markdown() for table in tables if table)])
