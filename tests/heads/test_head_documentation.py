"""docs/heads.md is what the docstrings say."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from sparsense.heads import HEADS

ROOT = Path(__file__).parents[2]


def generated() -> str:
    spec = spec_from_file_location("document_heads", ROOT / "scripts" / "document_heads.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    text: str = module.document()
    return text


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "heads.md").read_text() == generated(), "run python scripts/document_heads.py"


def test_every_head_has_a_paragraph() -> None:
    page = generated()
    assert [name for name in HEADS if f"### {name}\n" not in page] == []
