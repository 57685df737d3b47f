"""A picture of each table: the mean of every method, its cases as dots."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

from anomaly_rows.tables import Values, names

OURS, OTHERS, DOTS = "#7fa9d8", "#c0c0c0", "#1a1a1a"


def draw(row: str, values: Values, folder: Path, *, suffix: str = "") -> Path:
    """Write `anomaly_ROW.svg`; small, without fonts inside, the same bytes for the same numbers."""
    known = names(values)
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": row}
    figure, axes = plt.subplots(figsize=(6, 0.3 * len(known) + 0.9))
    for place, name in enumerate(reversed(known)):
        cases = [fmean(entry[name].values()) for entry in values.values()]
        color = OTHERS if name.startswith("PyOD") else OURS
        axes.barh(place, fmean(cases), color=color, height=0.6)
        axes.plot(cases, [place] * len(cases), "|", color=DOTS, markersize=6)
    lowest = min(fmean(entry[name].values()) for entry in values.values() for name in known)
    axes.set_xlim(max(0, lowest - 3), 100.5)
    axes.set_yticks(range(len(known)), list(reversed(known)), fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(f"AUROC, %; bars: mean of {len(values)} cases, marks: cases ({row})", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"anomaly_{row}{suffix}.svg"
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return path
