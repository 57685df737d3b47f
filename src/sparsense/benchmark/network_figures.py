"""Pictures of the network: speed against quality, and sensitivities and widths layer by layer."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from sparsense.benchmark import numbers
from sparsense.benchmark.card import Card, LatencyRow, Layer
from sparsense.benchmark.figure import NEUTRAL, SYMBOLS, Figure, colour, finished, panels, plain
from sparsense.benchmark.headline import final_accuracy

_MANY_LAYERS = 40  # beyond, their names would overlap


def speed_against_quality(card: Card) -> Figure | None:
    """Time over the plain dense forward pass, against mean AUROC of detectors and accuracy of plain networks."""
    if not any(row.head for row in card.latency) or not card.results:
        return None
    batch = min(row.batch for row in card.latency)
    rows = [row for row in card.latency if row.batch == batch]
    classifies = any(row.head is None and _accuracy(card, row.variant) is not None for row in rows)
    figure = panels(["detectors", "plain networks"] if classifies else ["detectors"], horizontal_spacing=0.12)
    heads = list(dict.fromkeys(row.head for row in card.detectors))
    told = []
    for row in rows:
        value = _mean_auroc(card, row) if row.head else _accuracy(card, row.variant)
        if value is None:
            continue
        index = heads.index(row.head) if row.head in heads else 0
        figure.add_trace(_point(row, value, index), row=1, col=1 if row.head else 2)
        told.append(f"{_label(row)}: {numbers.ratio(row.ratio)} the time, {numbers.percent(value)}")
    figure.add_vline(x=1, line={"color": NEUTRAL, "width": 1, "dash": "dot"})
    figure.update_xaxes(title_text="time over that of the plain dense network", rangemode="tozero")
    figure.update_yaxes(title_text="mean AUROC, %", col=1)
    figure.update_yaxes(title_text="accuracy, %", col=2)
    caption = (
        f"Speed against quality at batch {batch}, with 95 % intervals of the ratio; up and to the left is better. "
        "Open circles: dense network, diamonds: pruned. The AUROC is the mean over the anomalous sets."
    )
    return finished(figure, caption, f"Speed against quality. {'; '.join(told)}.", height=440)


def layers(card: Card) -> Figure | None:
    """Width and mean sensitivity of every layer, before and after pruning."""
    if not card.layers:
        return None
    figure = panels(["output channels", "RMS elasticity"], horizontal_spacing=0.1)
    names = [plain(row.name) for row in card.layers]
    for column, quantity in enumerate(("width", "sensitivity"), start=1):
        for index, when in enumerate(("before", "after")):
            values = [getattr(row, f"{quantity}_{when}") for row in card.layers]
            if any(value is not None for value in values):
                figure.add_trace(_series(when, names, values, index, column), row=1, col=column)
    figure.update_yaxes(type="log", tickformat=".0e", dtick="D2", col=2)
    figure.update_yaxes(rangemode="tozero", col=1)
    figure.update_xaxes(tickangle=-60, showticklabels=len(names) <= _MANY_LAYERS, tickfont={"size": 10})
    caption = (
        "Layers in the order of the network: how wide they are and how much the loss depends on a weight, on average, "
        "before and after pruning."
    )
    return finished(figure, caption, _layers_in_words(card.layers), height=460)


def _point(row: LatencyRow, value: float, index: int) -> dict[str, Any]:
    low, high = row.ratio_interval
    return {
        "type": "scatter",
        "name": _label(row),
        "x": [row.ratio],
        "y": [value * 100],
        "error_x": {"array": [high - row.ratio], "arrayminus": [row.ratio - low], "thickness": 1},
        "mode": "markers+text",
        "text": [plain(row.head or row.variant)],
        "textposition": "top center" if row.variant == "dense" else "bottom center",
        "textfont": {"size": 11},
        "marker": {
            "color": colour(index) if row.head else NEUTRAL,
            "symbol": SYMBOLS[row.variant],
            "size": 11,
            "line": {"width": 2, "color": colour(index) if row.head else NEUTRAL},
        },
        "showlegend": False,
        "cliponaxis": False,
        "hovertemplate": f"{_label(row)}: %{{x:.3g}} times the time, %{{y:.1f}} %<extra></extra>",
    }


def _series(when: str, names: list[str], values: list[Any], index: int, column: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": when,
        "legendgroup": when,
        "showlegend": column == 1,
        "x": names,
        "y": values,
        "mode": "lines+markers",
        "line": {"color": colour(index), "width": 1.5, "dash": ("dot", "solid")[index], "shape": "linear"},
        "marker": {"symbol": ("circle-open", "diamond")[index], "size": 8},
        "hovertemplate": f"%{{x}} {when}: %{{y:.3g}}<extra></extra>",
    }


def _label(row: LatencyRow) -> str:
    return plain(f"{row.head or 'plain forward'}, {row.variant}")


def _mean_auroc(card: Card, row: LatencyRow) -> float | None:
    values = [r.auroc for r in card.results if (r.variant, r.head) == (row.variant, row.head)]
    return fmean(values) if values else None


def _accuracy(card: Card, variant: str) -> float | None:
    row = final_accuracy(card, variant)
    return None if row is None else row.accuracy


def _layers_in_words(rows: list[Layer]) -> str:
    parts = [f"{len(rows)} layers before and after pruning."]
    narrowed = [row for row in rows if row.width_after is not None and row.width_after < row.width_before]
    if narrowed:
        most = min(narrowed, key=lambda row: (row.width_after or 0) / row.width_before)
        parts.append(
            f"{len(narrowed)} became narrower, most of all {most.name}: from {most.width_before} to {most.width_after}."
        )
    known = [row for row in rows if row.sensitivity_before is not None]
    if known:
        top = max(known, key=lambda row: row.sensitivity_before or 0)
        parts.append(f"The most sensitive before pruning is {top.name} with {numbers.small(top.sensitivity_before)}.")
    return " ".join(parts)
