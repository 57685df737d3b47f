"""Write docs/heads.md from the docstrings of the registered heads: python scripts/document_heads.py."""

from __future__ import annotations

import inspect
from pathlib import Path

from sparsense.heads import HEADS, Head

TARGET = Path(__file__).parents[1] / "docs" / "heads.md"
INTRODUCTION = """# Heads

Generated from the docstrings by `python scripts/document_heads.py`. A score is higher for what is more anomalous. f are
the logits, h the penultimate features, W and b the last layer, yhat the predicted class, K the number of classes.

`benchmarks/heads.py` measures AUROC and FPR95 of every head on pretrained networks, dense and pruned;
`benchmarks/head_cost.py` time and bytes.
"""


def document() -> str:
    """The whole page."""
    kinds = {"classifier": "For classifiers", "reconstruction": "For autoencoders"}
    sections = [
        f"## {title}\n\n" + "\n".join(paragraph(HEADS[name]) for name in sorted(HEADS) if HEADS[name].task == task)
        for task, title in kinds.items()
    ]
    return "\n".join([INTRODUCTION, *sections])


def paragraph(head: type[Head]) -> str:
    """Name, cost, and the docstring as it stands."""
    text = inspect.getdoc(head) or ""
    return f"### {head.name}\n\n{cost(head)}\n\n```text\n{text.strip()}\n```\n"


def cost(head: type[Head]) -> str:
    """What it needs, in words."""
    run = (
        "The network runs forwards and its gradient is part of the graph" if head.differentiates else "One forward run"
    )
    fit = "learns from labelled data" if head.needs_labels is True else "learns from unlabelled data"
    return f"{run}; {fit if head.learns else 'nothing to learn'}."


if __name__ == "__main__":
    TARGET.write_text(document())
