"""A sensitivity analysis as one page: loss and accuracy against the share that goes, a line per layer."""

from __future__ import annotations

from html import escape

from sparsense.benchmark.figure import Figure, colour, finished, panels, plain
from sparsense.extras import need
from sparsense.pipeline.analysis import Analysis, Row

CAPTION = (
    "Each line is one layer, or the layers whose channels are coupled, pruned alone by {criterion}; judged on "
    "{samples} training samples that the record has not seen. Lines that stay flat can lose much."
)


def analysis_page(name: str, analysis: Analysis) -> str:
    """One self-contained HTML page.

    Args:
        name: Of the recipe.
        analysis: What it shows.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    figure = analysis_figure(analysis)
    drawn = need("plotly.io", doing="drawing an analysis", extra="report").from_json(figure.json)
    picture = drawn.to_html(full_html=False, include_plotlyjs=True, div_id="analysis")
    title = f"Sensitivity of {name}"
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<body>\n<h1>{escape(title)}</h1>\n{picture}\n<p>{escape(figure.caption)}</p>\n"
        f'<p hidden id="description">{escape(figure.description)}</p>\n</body>\n</html>\n'
    )


def analysis_figure(analysis: Analysis) -> Figure:
    """The picture, with a text that says what there is to see."""
    titles = ["loss"] + (["accuracy, %"] if analysis.accuracy is not None else [])
    figure = panels(titles, horizontal_spacing=0.1)
    for index, row in enumerate(analysis.rows):
        figure.add_trace(_line(row, [analysis.loss, *row.loss], index), row=1, col=1)
        if analysis.accuracy is not None and row.accuracy is not None:
            percent = [100 * value for value in (analysis.accuracy, *row.accuracy)]
            figure.add_trace({**_line(row, percent, index), "showlegend": False}, row=1, col=2)
    figure.update_xaxes(title_text="share that goes", rangemode="tozero")
    described = "; ".join(f"{row.name} {row.loss[-1]:.3g} at {row.ratios[-1]:.0%}" for row in analysis.rows)
    caption = CAPTION.format(criterion=analysis.criterion, samples=analysis.samples)
    return finished(figure, caption, f"Loss {analysis.loss:.3g} before. {described}.", height=520)


def _line(row: Row, values: list[float], index: int) -> dict[str, object]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(row.name),
        "x": [0.0, *row.ratios],
        "y": values,
        "line": {"color": colour(index)},
    }
