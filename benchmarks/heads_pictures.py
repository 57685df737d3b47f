"""Pictures of what `heads.py` has found: heads by networks, and what pruning does to them. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Tables = dict[str, dict[float, dict[str, dict[str, list[float]]]]]
"""Network -> share of the multiply-adds that is gone -> head -> figure -> mean and standard deviation."""
OURS, OTHERS = "#1f5fa8", "#8a8a8a"
DEFAULT = "fusion"
LINES = (DEFAULT, "sensnorm_profile", "gram", "energy", "knn", "msp")  # of the picture of pruning
TICKS = (0.5, 0.9, 0.99)  # of an axis that shows 1 - AUROC by its logarithm: heads crowd near 1


def draw(rows: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Write `heads.svg`, and `heads_pruned.svg` of pruned networks; the same bytes for the same numbers."""
    tables: Tables = {}
    for row in rows:
        if not isinstance(row["found"], str):
            tables.setdefault(row["network"], {}).setdefault(row["removed"], {})[row["head"]] = row["found"]
    folder.mkdir(parents=True, exist_ok=True)
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "heads"}
    paths = [_by_network({name: found[0.0] for name, found in tables.items() if 0.0 in found}, folder / "heads.svg")]
    pruned = {name: found for name, found in tables.items() if len(found) > 1}
    return [*paths, _by_share(pruned, folder / "heads_pruned.svg")] if pruned else paths


def _by_network(tables: dict[str, dict[str, dict[str, list[float]]]], path: Path) -> Path:
    known = dict.fromkeys(head for found in tables.values() for head in found)
    mean = {head: _mean([found[head]["far"][0] for found in tables.values() if head in found]) for head in known}
    order = sorted(known, key=mean.__getitem__)
    figure, grid = plt.subplots(
        1, len(tables), figsize=(1.6 + 1.3 * len(tables), 0.16 * len(order) + 0.8), sharey=True, squeeze=False
    )
    for axes, (name, found) in zip(grid[0], tables.items(), strict=True):
        for key, filled in (("far", True), ("near", False)):
            for place, head in enumerate(order):
                if key in found.get(head, {}):
                    _dot(axes, found[head][key][0], place, head, filled=filled)
        axes.set_title(name, fontsize=7)
        axes.set_xscale("log")
        axes.set_xlim(0.6, 0.002)
        axes.set_xticks([1 - tick for tick in TICKS], [str(tick) for tick in TICKS])
        axes.minorticks_off()
        axes.tick_params(labelsize=6)
        axes.grid(axis="x", linewidth=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_yticks(range(len(order)), order)
    figure.supxlabel("AUROC; full: far, hollow: near", fontsize=7, y=0.03)
    return _saved(figure, path)


def _dot(axes: Axes, value: float, place: int, head: str, *, filled: bool) -> None:
    color = OURS if head == DEFAULT else OTHERS
    missed = min(max(1 - value, 0.0025), 0.5)  # chance and worse at the left
    axes.plot(missed, place, "o", color=color, markersize=3, markerfacecolor=color if filled else "white")


def _by_share(tables: Tables, path: Path) -> Path:
    figure, grid = plt.subplots(
        1, len(tables), figsize=(1 + 1.7 * len(tables), 2.4), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (name, by_share) in zip(grid[0], tables.items(), strict=True):
        shares = sorted(by_share)
        for index, head in enumerate(LINES):
            there = [share for share in shares if head in by_share[share]]
            means = [
                _mean([by_share[share][head][key][0] for key in _figures(by_share[share][head])]) for share in there
            ]
            axes.plot(
                there, means, "o-", color=f"C{index}", markersize=3, linewidth=2 if head == DEFAULT else 1, label=head
            )
        axes.set_title(name, fontsize=7)
        axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
        axes.tick_params(labelsize=6)
        axes.grid(linewidth=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0][0].set_ylabel("AUROC, mean of far and near", fontsize=7)
    figure.supxlabel("multiply-adds removed", fontsize=7)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=6, frameon=False)
    return _saved(figure, path)


def _figures(found: dict[str, list[float]]) -> list[str]:
    return [key for key in ("far", "near") if key in found]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _saved(figure: Any, path: Path) -> Path:
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return path
