"""Pictures of scores: histograms with the threshold, and ROC curves with the operating point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsense.benchmark import numbers
from sparsense.benchmark.card import CalibrationRow, Card
from sparsense.benchmark.figure import DASHES, NEUTRAL, Figure, colour, finished, panels, plain
from sparsense.benchmark.metrics import Array, auroc, flagged, roc_curve
from sparsense.benchmark.score_file import ScoreKey
from sparsense.errors import InputError

Scores = Mapping[ScoreKey, Array]
_BINS = 60
_ROC_POINTS = 200


def histograms(card: Card, scores: Scores, head: str) -> Figure:
    """How the scores of one head spread, per variant and set, in the order of the card."""
    variants = _variants(card, head)
    figure = panels([f"{variant} network" for variant in variants], horizontal_spacing=0.05, shared_yaxes=True)
    told = []
    for column, variant in enumerate(variants, start=1):
        named = _named_scores(card, scores, variant, head)
        calibration = _calibration(card, variant, head)
        threshold = calibration.threshold
        edges = _edges([*named.values(), np.array([threshold])])
        for index, (name, values) in enumerate(named.items()):
            figure.add_trace(_steps(plain(name), values, edges, index, legend=column == 1), row=1, col=column)
        figure.add_trace(_threshold_line(threshold, named, edges, legend=column == 1), row=1, col=column)
        rates = ", ".join(f"{numbers.percent(flagged(values, threshold))} of {name}" for name, values in named.items())
        which = "one threshold for all classes," if calibration.classes else "the threshold"
        told.append(f"On the {variant} network {which} {numbers.digits(threshold)} flags {rates}.")
    figure.update_xaxes(title_text="score (higher = more anomalous)")
    figure.update_yaxes(title_text="share of the set, %", col=1)
    caption = (
        f"Scores of {head}, in % of each set per bin, and the calibrated threshold. The outermost bins hold "
        "everything beyond."
    )
    return finished(figure, caption, " ".join([f"Histograms of the scores of {head}.", *told]))


def roc_curves(card: Card, scores: Scores, head: str) -> Figure:
    """Detection rate against false-alarm rate; a dot marks the calibrated threshold."""
    figure = panels([""])
    told = []
    for variant in _variants(card, head):
        inside, *anomalous = _named_scores(card, scores, variant, head).items()
        threshold = _calibration(card, variant, head).threshold
        for index, (name, values) in enumerate(anomalous, start=1):
            figure.add_trace(_curve(plain(f"{name}, {variant}"), inside[1], values, index, variant))
            figure.add_trace(_operating_point(inside[1], values, threshold, index))
            told.append(f"{name} on the {variant} network {numbers.percent(auroc(inside[1], values))}")
    figure.update_xaxes(title_text="false-alarm rate, % of in-distribution inputs", range=[-1, 101])
    figure.update_yaxes(title_text="detection rate, % of anomalies", range=[-1, 101])
    caption = f"ROC curves of {head}; dots mark the calibrated thresholds. Solid: pruned network, dotted: dense."
    return finished(figure, caption, f"ROC curves of {head}. Areas: {'; '.join(told)}.", height=440)


def _variants(card: Card, head: str) -> list[str]:
    return [row.variant for row in card.detectors if row.head == head]


def _calibration(card: Card, variant: str, head: str) -> CalibrationRow:
    for row in card.calibration:
        if (row.variant, row.head) == (variant, head):
            return row
    raise InputError(f"the card has no calibration row for the detector {variant}/{head}")


def _named_scores(card: Card, scores: Scores, variant: str, head: str) -> dict[str, Array]:
    """Scores of the test set, then of each anomalous set, by name."""
    tests = [row.name for row in card.data if row.role == "test"]
    if len(tests) != 1:
        raise InputError(f"a report needs exactly one data set with the role 'test'; the card has {len(tests)}")
    anomalous = [row.dataset for row in card.results if (row.variant, row.head) == (variant, head)]
    named = {}
    for name in (*tests, *anomalous):
        key = ScoreKey(variant, head, name)
        if key not in scores:
            raise InputError(f"scores.npz has no array {'/'.join(key)!r}, which the card speaks of")
        named[name] = scores[key]
    return named


def _edges(sets: list[Array]) -> Array:
    """Edges of equal bins over what nearly all scores of every set span."""
    finite = [values[np.isfinite(values)] for values in sets]
    low = min(float(np.quantile(values, 0.005)) for values in finite if len(values))
    high = max(float(np.quantile(values, 0.995)) for values in finite if len(values))
    margin = 0.02 * (high - low) or abs(low) * 1e-3 or 1.0
    return np.linspace(low - margin, high + margin, _BINS + 1)


def _steps(name: str, values: Array, edges: Array, index: int, *, legend: bool) -> dict[str, Any]:
    clipped = np.clip(values, edges[0], edges[-1])
    shares = np.histogram(clipped, edges)[0] / len(values) * 100
    return {
        "type": "scatter",
        "name": name,
        "legendgroup": name,
        "showlegend": legend,
        "x": edges.round(6).tolist(),
        "y": [*shares.round(3).tolist(), float(shares[-1].round(3))],
        "mode": "lines",
        "line": {"shape": "hv", "color": colour(index), "width": 1.5},
        "fill": "tozeroy" if index == 0 else "none",
        "hovertemplate": f"{name}: %{{y:.1f}} % at %{{x:.4g}}<extra></extra>",
    }


def _threshold_line(threshold: float, named: Mapping[str, Array], edges: Array, *, legend: bool) -> dict[str, Any]:
    tallest = max(np.histogram(np.clip(v, edges[0], edges[-1]), edges)[0].max() / len(v) for v in named.values())
    return {
        "type": "scatter",
        "name": "threshold",
        "legendgroup": "threshold",
        "showlegend": legend,
        "x": [threshold, threshold],
        "y": [0, float(tallest) * 100],
        "mode": "lines",
        "line": {"color": NEUTRAL, "width": 2, "dash": "dash"},
        "hovertemplate": "threshold %{x:.5g}<extra></extra>",
    }


def _curve(name: str, inside: Array, values: Array, index: int, variant: str) -> dict[str, Any]:
    alarms, detections = roc_curve(inside, values)
    grid = np.linspace(0, 1, _ROC_POINTS) ** 2  # denser where false alarms are few
    heights = detections[np.searchsorted(alarms, grid, side="right") - 1]
    return {
        "type": "scatter",
        "name": name,
        "x": (grid * 100).round(3).tolist(),
        "y": (heights * 100).round(3).tolist(),
        "mode": "lines",
        "line": {"shape": "hv", "color": colour(index), "width": 2, "dash": DASHES[variant]},
        "hovertemplate": f"{name}: %{{y:.1f}} % detected at %{{x:.1f}} % false alarms<extra></extra>",
    }


def _operating_point(inside: Array, values: Array, threshold: float, index: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "showlegend": False,
        "x": [flagged(inside, threshold) * 100],
        "y": [flagged(values, threshold) * 100],
        "mode": "markers",
        "marker": {"color": colour(index), "size": 9},
        "hovertemplate": "at the threshold: %{y:.1f} % detected, %{x:.1f} % false alarms<extra></extra>",
    }
