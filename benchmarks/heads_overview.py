"""One table of all that `heads.py` has found: heads by networks, far / near.

python benchmarks/heads_overview.py CARD.json [CARD.json ...] [--sets fusion gram ...] [--images docs/images]

The cards are what `heads.py --out` writes; of two with the same network and head the later one counts. The best of a
column is bold. Heads are in the order of their mean, those measured everywhere first. A table for each group of dense
networks with the same kinds of anomalies; with --sets also these heads set by set, and by the share of the
multiply-adds that is gone; with --images pictures of it all (needs matplotlib).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import product
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


def kinds_of(row: dict[str, Any]) -> list[str]:
    """Far and near, or far alone: what tables are told apart by."""
    return [key for key in ("far", "near") if key in row["found"]]


def set_by_set(rows: Sequence[dict[str, Any]], heads: Sequence[str]) -> Iterator[str]:
    """AUROC and FPR95 of every set, and the realised share of false alarms."""
    found: dict[tuple[str, str], Found] = {}
    for row in rows:
        if row["head"] in heads:
            found[row["network"], row["head"]] = row["found"]
    yield "| network | head | AUROC / FPR95, set by set | false alarms |"
    yield "|---|---|---|---:|"
    for (network, head), figures in found.items():
        sets = [key.removesuffix(" AUROC") for key in figures if key.endswith(" AUROC")]
        each = "; ".join(
            f"{name} {cell(figures, f'{name} AUROC', 2)} / {figures[f'{name} FPR95'][0]:.3f}" for name in sets
        )
        yield f"| {network} | {head} | {each} | {figures['false alarms'][0]:.3f} |"


def by_share(rows: Sequence[dict[str, Any]], heads: Sequence[str]) -> Iterator[str]:
    """Far / near of dense and pruned networks side by side; nothing if none is pruned."""
    shares = sorted({row["removed"] for row in rows})
    pruned = dict.fromkeys(row["network"] for row in rows if row["removed"])
    found = {(row["network"], row["head"], row["removed"]): row["found"] for row in rows}
    if not pruned:
        return
    yield f"| network | head | {' | '.join(f'{share:.0%} removed' if share else 'dense' for share in shares)} |"
    yield f"|---|---|{'---:|' * len(shares)}"
    for network, head in product(pruned, heads):
        each = [found.get((network, head, share)) for share in shares]
        cells = (" / ".join(cell(one, key, 2) for key in ("far", "near") if key in one) if one else "" for one in each)
        yield f"| {network} | {head} | {' | '.join(cells)} |"


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
    parser.add_argument("--sets", nargs="+", default=(), help="heads to print set by set")
    parser.add_argument("--images", type=Path, help="folder for pictures")
    options = parser.parse_args()
    rows = [row for name in options.cards for row in json.loads(name.read_text())["rows"]]
    rows = [row for row in rows if not isinstance(row["found"], str)]  # of a head that refuses the network
    dense = [row for row in rows if not row["removed"]]
    for kinds in dict.fromkeys(tuple(kinds_of(row)) for row in dense):
        print(overview([row for row in dense if kinds_of(row) == list(kinds)]), end="\n\n")
    if options.sets:
        print(*set_by_set(dense, options.sets), "", *by_share(rows, options.sets), sep="\n")
    if options.images:
        from heads_pictures import draw  # needs matplotlib

        print(*draw(rows, options.images))


if __name__ == "__main__":
    main()
