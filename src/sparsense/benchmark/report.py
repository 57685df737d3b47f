"""From a run's card and scores to a report: one HTML file that works offline, and the same in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsense.benchmark import (
    explanation_figures,
    network_figures,
    overview_table,
    record_tables,
    result_tables,
    robustness_table,
    score_figures,
)
from sparsense.benchmark.card import Card, load_card
from sparsense.benchmark.explanation_file import Drawn, Key, read_explanations
from sparsense.benchmark.figure import Figure
from sparsense.benchmark.headline import headlines
from sparsense.benchmark.score_figures import Scores
from sparsense.benchmark.score_file import read_scores
from sparsense.benchmark.table import cell
from sparsense.errors import InputError
from sparsense.extras import need
from sparsense.files import atomic_write

TEMPLATES = Path(__file__).parent / "templates"


def write_report(folder: str | Path) -> tuple[Path, Path]:
    """Write `report.html` and `report.md` beside `card.json` and `scores.npz`.

    The report is a function of these two files and of nothing else.

    Args:
        folder: Where a run wrote them.

    Returns:
        The paths of both files.

    Raises:
        InputError: A file is missing or damaged, or scores that the card speaks of are missing.
        MissingExtraError: plotly or jinja2 is not installed.
    """
    folder = Path(folder)
    card, scores = load_card(folder / "card.json"), read_scores(folder / "scores.npz")
    drawn = read_explanations(folder / "explanations.npz")
    written = []
    for name, text in (("report.html", html(card, scores, drawn)), ("report.md", markdown(card))):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written[0], written[1]


def html(card: Card, scores: Scores, drawn: Mapping[Key, Drawn] | None = None) -> str:
    """The report as one self-contained page; plotly's JavaScript is inside, once."""
    templates = environment(autoescape=True)
    script = need("plotly.offline", doing="writing a report", extra="report").get_plotlyjs()
    heads = list(dict.fromkeys(row.head for row in card.detectors))
    text: str = templates.get_template("report.html").render(
        **_content(card),
        speed=network_figures.speed_against_quality(card),
        layers=network_figures.layers(card),
        heads={head: _head_figures(card, scores, head) for head in heads},
        explanations=_explanations(card, drawn or {}),
        css=verbatim("report.css"),
        javascript=verbatim("report.js"),
        tables_script=verbatim("tables.js"),
        plotly=need("markupsafe", doing="writing a report", extra="report").Markup(script),
    )
    return text


def markdown(card: Card) -> str:
    """The report without its pictures, for a repository or a review."""
    templates = environment(autoescape=False)
    templates.filters["cell"] = cell
    text: str = templates.get_template("report.md").render(**_content(card), fence=_fence(card.recipe.text))
    return text


def _content(card: Card) -> dict[str, Any]:
    return {
        "card": card,
        "headlines": headlines(card),
        "overview": overview_table.overview(card),
        "detection": result_tables.detection(card),
        "detection_details": result_tables.detection_details(card),
        "calibration": result_tables.calibration(card),
        "own_task": result_tables.own_task(card),
        "latency": result_tables.latency(card),
        "robustness": robustness_table.robustness(card),
        "parity": result_tables.parity(card),
        "pruning": record_tables.pruning(card),
        "alignment": record_tables.alignment(card),
        "layer_table": record_tables.layers(card),
        "files": record_tables.files(card),
        "data": record_tables.data(card),
        "environment": record_tables.environment(card),
    }


def _explanations(card: Card, drawn: Mapping[Key, Drawn]) -> dict[str, list[Figure]]:
    """Detector -> its pictures."""
    found = {f"{row.head}, {row.variant} network": row for row in card.explanations}
    for row in found.values():
        if (row.variant, row.head) not in drawn:
            raise InputError(f"explanations.npz has no arrays {row.variant}/{row.head}, which the card speaks of")
    return {name: explanation_figures.explanations(row, drawn[row.variant, row.head]) for name, row in found.items()}


def _head_figures(card: Card, scores: Scores, head: str) -> list[Figure]:
    found = [score_figures.histograms(card, scores, head)]
    if any(row.head == head for row in card.results):  # without anomalies there is nothing to detect
        found.append(score_figures.roc_curves(card, scores, head))
    return found


def environment(*, autoescape: bool) -> Any:
    """Templates of this folder; a name that is missing is an error."""
    jinja2 = need("jinja2", doing="writing a report", extra="report")
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def verbatim(name: str) -> Any:
    """A file of ours that goes into the page as it is."""
    markup = need("markupsafe", doing="writing a report", extra="report")
    return markup.Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _fence(text: str) -> str:
    """A code fence longer than any run of backticks in the text."""
    longest = max((len(run) for run in text.split() if set(run) == {"`"}), default=0)
    return "`" * max(3, longest + 1)
