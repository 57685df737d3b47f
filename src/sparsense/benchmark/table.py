"""A table of a report: text cells under a caption, the same for HTML and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of text.

    Args:
        caption: What it shows and how to read it, with the units of its columns.
        columns: Heads of the columns.
        rows: Cells, as many per row as there are columns.
        labels: So many columns at the left name the row; the others hold numbers.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.caption!r}: every row needs {len(self.columns)} cells")

    def to_markdown(self) -> str:
        """The caption, and the table in Markdown; empty without rows."""
        if not self.rows:
            return ""
        marks = ["---" if index < self.labels else "---:" for index in range(len(self.columns))]
        lines = [[cell(text) for text in self.columns], marks, *([cell(text) for text in row] for row in self.rows)]
        return "\n".join([self.caption, "", *(f"| {' | '.join(line)} |" for line in lines), ""])

    def __bool__(self) -> bool:
        return bool(self.rows)


def cell(text: str) -> str:
    r"""A text that stays within its cell of a Markdown table, and is no HTML.

    Example:
        >>> cell("a|b")
        'a\\|b'
    """
    for character, code in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(character, code)
    return text
