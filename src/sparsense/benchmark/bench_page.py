"""A comparison of detectors as a file: JSON, Markdown, or one page that works offline."""

from __future__ import annotations

from pathlib import Path

from sparsense.benchmark.bench_card import BenchCard
from sparsense.benchmark.bench_tables import tables
from sparsense.benchmark.report import environment, verbatim
from sparsense.errors import InputError
from sparsense.files import atomic_write, check_place

SUFFIXES = (".json", ".md", ".html")


def check_suffix(path: Path) -> None:
    """Refuse another kind of file, or a place where none can be, before anything is measured."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"writing {path}: expected a file that ends with {', '.join(SUFFIXES)}; got {path.suffix!r}")
    check_place(path)


def write_bench(card: BenchCard, path: Path) -> None:
    """Write a comparison; the suffix says how.

    Raises:
        InputError: Another suffix than .json, .md, .html.
        MissingExtraError: jinja2 is not installed, for a page.
    """
    check_suffix(path)
    if path.suffix.lower() == ".json":
        card.save(path)
        return
    text = markdown(card) if path.suffix.lower() == ".md" else page(card)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def markdown(card: BenchCard) -> str:
    """All tables, one after the other."""
    parts = [f"# Comparison of detectors, {card.created}\n", *(table.to_markdown() for table in tables(card))]
    return "\n".join(parts)


def page(card: BenchCard) -> str:
    """The same as one self-contained page."""
    template = environment(autoescape=True).get_template("bench.html")
    text: str = template.render(
        card=card, tables=tables(card), css=verbatim("report.css"), tables_script=verbatim("tables.js")
    )
    return text
