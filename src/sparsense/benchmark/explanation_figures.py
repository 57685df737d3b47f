"""Pictures of explanations: what the most anomalous scores are made of, and where in the image they come from."""

from __future__ import annotations

from collections.abc import Sequence
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
    if drawn.parts is not None and row.kind == "channels":
        found.append(_channels(row, drawn))
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


def _channels(row: Explanation, drawn: Drawn) -> Figure:
    """Layers by channels of the highest score, less what is usual."""
    most = int(np.argmax([example.score for example in row.examples]))
    layers = channel_rows(row.names, np.asarray(drawn.parts)[most] - np.asarray(drawn.usual))
    step = max(1, -(-max(map(len, layers.values())) // MOST_PIXELS))
    rows = [np.add.reduceat(values, np.arange(0, len(values), step)) for values in layers.values()]
    figure = panels([""])
    size = max(float(np.abs(values).max()) for values in rows) or 1.0
    wide = max(map(len, rows))
    lines = [[*(float(f"{value:.3g}") for value in values), *[None] * (wide - len(values))] for values in rows]
    figure.add_trace(
        {
            "type": "heatmap",
            "y": [plain(name) for name in layers],
            "z": lines,
            "x0": 0,
            "dx": step,
            "colorscale": "RdBu",
            "reversescale": True,
            "zmin": -size,
            "zmax": size,
            "hovertemplate": "%{y}, channel %{x}: %{z:.3g}<extra></extra>",
        }
    )
    figure.update_xaxes(title_text="channel")
    figure.update_yaxes(autorange="reversed")
    called = _called(row.examples[most])
    summed = f" Every {step} neighbouring channels are summed." if step > 1 else ""
    caption = f"Which channels make the highest score of {row.head} ({row.variant} network), {called}, less the usual."
    totals = {name: float(values.sum()) for name, values in layers.items()}
    first = max(totals, key=totals.__getitem__)
    told = f"{caption} Most of all those of {first}, together {numbers.digits(totals[first])}."
    return finished(figure, caption + summed, told, height=120 + 22 * len(rows))


def channel_rows(names: Sequence[str], values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Layer -> the values of its channels, from parts called `layer[channel]`; others are no channels.

    Example:
        >>> channel_rows(["error", "a[0]", "a[1]", "b[0]"], np.array([9, 1, 2, 3]))
        {'a': array([1, 2]), 'b': array([3])}
    """
    owners = [name.rpartition("[")[0] for name in names]
    layers = dict.fromkeys(owner for owner in owners if owner)
    return {layer: values[[owner == layer for owner in owners]] for layer in layers}


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
