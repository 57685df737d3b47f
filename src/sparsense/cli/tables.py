"""Plain tables for people and for pipes: aligned columns, no borders, no colours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sparsense.errors import printable


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    r"""Lines of a table; numbers are aligned to the right.

    Example:
        >>> print(*table(["name", "size"], [["a", 5], ["bcd", 10]]), sep="\n")
        name  size
        a        5
        bcd     10
    """
    values = [list(row) for row in rows]
    cells = [[_text(value) for value in row] for row in values]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [bool(values) and all(_is_number(row[i]) for row in values) for i in range(len(header))]
    for line in [list(header), *cells]:
        aligned = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True))
        yield "  ".join(aligned).rstrip()


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else printable(str(value))


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
