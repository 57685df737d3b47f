"""Pictures of explanations: what the most anomalous scores are made of, and where in the image they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsense.benchmark import numbers
from sparsense.benchmark.card import Example, Explanation
from sparsense.benchmark.explanation_file import Drawn
from sparsense.benchmark.figure import NEUTRAL, Figure, colour, finished, panels, plain
from sparsense.extras import need

MOST_PARTS = 24
MOST_PIXELS = 96
"""Along a side: a report is to be opened, not to be waited for."""


def explanations(row: Explanation, drawn: Drawn) -> list[Figure]:
    """The pictures of one detector; as many as it has explanations."""
    found = [_parts(row, drawn)] if drawn.parts is not None else []
    return [*found, _maps(row, drawn)] if drawn.maps is not None and drawn.images is not None else found


def _parts(row: Explanation, drawn: Drawn) -> Figure:
    """Bars of the parts, a group for every part."""
    parts, usual = np.asarray(drawn.parts), np.asarray(drawn.usual)
    chosen = np.sort(np.argsort(-np.abs(parts).max(0), kind="stable")[:MOST_PARTS])
    names = [plain(row.names[i]) for i in chosen]
    figure = panels([""])
    figure.add_trace(_bars("median of the test set", names, usual[chosen], NEUTRAL))
    told = []
    for index, (example, values) in enumerate(zip(row.examples, parts, strict=True)):
        figure.add_trace(_bars(plain(_called(example)), names, values[chosen], colour(index)))
        most = int(np.argmax(values))
        told.append(f"{_called(example)}: most of all {row.names[most]} with {numbers.digits(float(values[most]))}")
    figure.update_xaxes(title_text=row.kind)
    figure.update_yaxes(title_text="contribution to the score")
    figure.update_layout(barmode="group")
    left_out = f" The {MOST_PARTS} largest of {len(row.names)}." if len(row.names) > MOST_PARTS else ""
    caption = f"What the highest scores of {row.head} ({row.variant} network) are made of; parts add up to the score."
    return finished(figure, caption + left_out, f"{caption} {'; '.join(told)}.")


def _bars(name: str, names: list[str], values: NDArray[Any], shade: str) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "x": names,
        "y": [float(f"{value:.4g}") for value in values],
        "marker": {"color": shade},
        "hovertemplate": f"{name}: %{{y:.4g}}<extra>%{{x}}</extra>",
    }


def _maps(row: Explanation, drawn: Drawn) -> Figure:
    """Images above, their maps below."""
    images, maps = np.asarray(drawn.images), np.asarray(drawn.maps)
    subplots = need("plotly.subplots", doing="drawing a report", extra="report")
    titles = [plain(_called(example)) for example in row.examples]
    figure = subplots.make_subplots(rows=2, cols=len(images), subplot_titles=titles, horizontal_spacing=0.02)
    for column, (image, values) in enumerate(zip(images, maps, strict=True), start=1):
        colours = image if image.shape[2] == 3 else np.repeat(image[:, :, :1], 3, axis=2)
        figure.add_trace({"type": "image", "z": _thinned(colours).tolist(), "hoverinfo": "skip"}, row=1, col=column)
        figure.add_trace(_heat(_thinned(values)), row=2, col=column)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, scaleanchor="x", autorange="reversed")
    figure.update_annotations(font_size=11)
    caption = f"Where the highest scores of {row.head} ({row.variant} network) come from: {row.map}. Bright is much."
    told = "; ".join(f"{_called(e)}, most at {_where(values)}" for e, values in zip(row.examples, maps, strict=True))
    return finished(figure, caption, f"{caption} {told}.", height=380)


def _heat(values: NDArray[Any]) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "z": [[float(f"{value:.3g}") for value in line] for line in values],
        "colorscale": "Viridis",
        "showscale": False,
        "showlegend": False,
        "hovertemplate": "%{z:.3g}<extra></extra>",
    }


def _thinned(values: NDArray[Any]) -> NDArray[Any]:
    step = max(1, -(-max(values.shape[:2]) // MOST_PIXELS))
    return values[::step, ::step]


def _where(values: NDArray[Any]) -> str:
    row, column = np.unravel_index(int(np.argmax(values)), values.shape)
    down = ("the top", "the middle", "the bottom")[int(3 * row / values.shape[0])]
    across = ("left", "centre", "right")[int(3 * column / values.shape[1])]
    return f"{down} {across}"


def _called(example: Example) -> str:
    return f"{example.dataset} {example.index}, score {numbers.digits(example.score)}"
