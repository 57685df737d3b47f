"""A picture of a report: a plotly figure with a caption, and a text for those who cannot see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsense.extras import need

COLOURS = ("#2a86c8", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6bb1", "#a0674b")
"""Told apart by colour-blind readers (after M. Okabe, K. Ito, 2008), readable on white and on black."""
NEUTRAL = "#808080"
DASHES = {"dense": "dot", "pruned": "solid"}
SYMBOLS = {"dense": "circle-open", "pruned": "diamond"}


@dataclass(frozen=True)
class Figure:
    """What a template shows.

    Args:
        caption: Beneath the picture: what it shows and how to read it.
        description: Read aloud instead of it: what there is to see, with numbers.
        json: The plotly figure; plotly writes angle brackets as escapes, so that no name in it can end a script.
        height: In pixels.
    """

    caption: str
    description: str
    json: str
    height: int


def plain(name: str) -> str:
    """A name that plotly shows as it is: it reads angle brackets as markup and %{...} as a placeholder."""
    for character, code in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("%{", "% {")):
        name = name.replace(character, code)
    return name


def colour(index: int) -> str:
    """The colour of the index-th series."""
    return COLOURS[index % len(COLOURS)]


def panels(titles: list[str], **options: Any) -> Any:
    """An empty plotly figure with one panel per title, side by side."""
    subplots = need("plotly.subplots", doing="drawing a report", extra="report")
    return subplots.make_subplots(rows=1, cols=len(titles), subplot_titles=titles, **options)


def finished(figure: Any, caption: str, description: str, *, height: int = 400) -> Figure:
    """The figure in the look of the report; colours of text and lines come from its style sheet."""
    legend = any(getattr(trace, "showlegend", False) is not False for trace in figure.data)  # images have none
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        margin={"l": 64, "r": 16, "t": 36, "b": 96 if legend else 64},
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"},
        height=height,
        hovermode="closest",
    )
    figure.update_xaxes(automargin=True, zeroline=False)
    figure.update_yaxes(automargin=True, zeroline=False)
    return Figure(caption, description, figure.to_json(), height)
