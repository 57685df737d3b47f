"""Small pictures of a sweep's fronts, for a page of documentation, and its front and finalists as Markdown.

python benchmarks/sweep_plots.py SWEEP_FOLDER PICTURE_FOLDER [--name cifar10]

Reads `frontier.json`. Writes NAME_QUALITY_COST.svg for accuracy and AUROC against bytes, time and multiply-adds; prints
the detectors on any of these fronts. Times are drawn for those alone that were measured together.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sparsense.sweep.columns import label
from sparsense.sweep.points import brief

QUALITIES = {"accuracy": "accuracy, %", "auroc": "mean AUROC, %"}
COSTS = {"bytes": "bytes of the file", "time": "time / dense plain pass", "multiply_adds": "multiply-adds"}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--name", default="cifar10")
    options = parser.parse_args()
    found = json.loads((options.sweep / "frontier.json").read_text())
    rows = found["detectors"]
    options.pictures.mkdir(parents=True, exist_ok=True)
    for quality in QUALITIES:
        for cost in COSTS:
            shown = [row for row in rows if row[quality] is not None and row[cost] is not None]
            shown = [row for row in shown if cost != "time" or row["together"]]
            if len(shown) > 1:
                draw(shown, quality, cost, options.pictures / f"{options.name}_{quality}_{cost}.svg")
    kept = {index for front in found["fronts"] if front["quality"] in QUALITIES for index in front["detectors"]}
    table([rows[index] for index in sorted(kept)])


def front(rows: list[Row], quality: str, cost: str) -> list[Row]:
    """Nobody is at least as good in both and better in one; by rising cost."""
    best, kept = float("-inf"), []
    for row in sorted(rows, key=lambda row: (row[cost], -row[quality])):
        if row[quality] > best:
            best = row[quality]
            kept.append(row)
    return kept


def draw(rows: list[Row], quality: str, cost: str, file: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "sparsense", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}
    from matplotlib import pyplot as plt

    picture, axes = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    for colour, head in zip(COLOURS, dict.fromkeys(row["head"] for row in rows), strict=False):
        for variant, style in (("dense", {"facecolors": "none", "marker": "o"}), ("pruned", {"marker": "D"})):
            some = [row for row in rows if (row["head"], row["variant"]) == (head, variant)]
            label = head if variant == "pruned" else None
            fill = {"facecolors": colour, **style}
            axes.scatter([row[cost] for row in some], [100 * row[quality] for row in some], s=22, label=label,
                         edgecolors=colour, **fill)  # fmt: skip
    kept = front(rows, quality, cost)
    axes.step([row[cost] for row in kept], [100 * row[quality] for row in kept], where="post", color="#808080",
              linestyle=":", zorder=0, label="front")  # fmt: skip
    if cost != "time":
        axes.set_xscale("log")
    axes.set_xlabel(COSTS[cost])
    axes.set_ylabel(QUALITIES[quality])
    axes.legend(frameon=False)
    picture.savefig(file, metadata={"Date": None})
    plt.close(picture)


def table(rows: list[Row]) -> None:
    keys = list(dict.fromkeys(key for row in rows for key in row["values"]))
    names = [*map(label, keys), "head", "precision"]
    print(f"| {' | '.join(names)} | accuracy | AUROC | false alarms | time | bytes |")
    print(f"|{'---|' * (len(keys) + 2)}---:|---:|---:|---:|---:|")
    for row in sorted(rows, key=lambda row: row["bytes"]):
        values = [brief(row["values"][key]) if key in row["values"] else "dense" for key in keys]
        time = f"{row['time']:.2f}" if row["together"] else ""
        shares = [f"{100 * row[key]:.1f} %" for key in ("accuracy", "auroc", "false_alarms")]
        print(f"| {' | '.join([*values, row['head'], row['precision'], *shares, time])} | {row['bytes']:,} |")


if __name__ == "__main__":
    main()
