"""One table of all that `heads.py` has found: heads by networks, far / near.

python benchmarks/heads_overview.py CARD.json [CARD.json ...] [--images docs/images]

The cards are what `heads.py --out` writes. The best of a column is bold. Heads are in the order of their mean, those
measured everywhere first. With --images, pictures of it too (needs matplotlib).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

Found = dict[str, list[float]]


def overview(rows: Sequence[dict[str, Any]]) -> str:
    """Of rows with the keys network, removed, head and found."""
    tables: dict[str, dict[str, Found]] = {}
    for row in rows:
        if not isinstance(row["found"], str):
            title = f"{row['network']}, {row['removed']:.0%} removed," if row["removed"] else row["network"]
            tables.setdefault(title, {})[row["head"]] = row["found"]
    columns = [(title, key) for title, table in tables.items() for key in ("far", "near") if key in first(table)]
    best = {(title, key): max(found[key][0] for found in tables[title].values()) for title, key in columns}
    means: dict[str, list[float]] = {}
    for title, key in columns:
        for head, found in tables[title].items():
            means.setdefault(head, []).append(found[key][0])
    lines = []
    for head in sorted(means, key=lambda head: (-len(means[head]), -fmean(means[head]))):
        cells = (cell(tables[title].get(head), key, best[title, key]) for title, key in columns)
        lines.append(f"| {head} | {' | '.join(cells)} |")
    names = " | ".join(f"{title} {key}" for title, key in columns)
    return "\n".join([f"| head | {names} |", f"|---|{'---:|' * len(columns)}", *lines])


def first(table: dict[str, Found]) -> Found:
    return next(iter(table.values()))


def cell(found: Found | None, key: str, best: float) -> str:
    if found is None:
        return ""
    mean, spread = found[key]
    told = f"{mean:.3f} ± {spread:.3f}"
    return f"**{told}**" if mean == best else told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cards", nargs="+", type=Path, help="JSON files")
    parser.add_argument("--images", type=Path, help="folder for pictures")
    options = parser.parse_args()
    rows = [row for name in options.cards for row in json.loads(name.read_text())["rows"]]
    print(overview(rows))
    if options.images:
        from heads_pictures import draw  # needs matplotlib

        print(*draw(rows, options.images))


if __name__ == "__main__":
    main()
