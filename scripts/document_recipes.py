"""Write docs/recipes.md from the recipe schema: python scripts/document_recipes.py."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sparsense.criteria import CRITERIA
from sparsense.recipe.schema import Recipe

TARGET = Path(__file__).parents[1] / "docs" / "recipes.md"
INTRODUCTION = """# Recipes

Generated from the schema by `python scripts/document_recipes.py`.

A recipe is one YAML file. `sparsense run RECIPE` does all of it, `sparsense prune RECIPE` the network half (prune,
prove, save), `sparsense prune RECIPE --dry-run` only says what could go, `sparsense prune RECIPE --analyse` only
measures how much each layer can lose. `--set prune.sparsity=0.7` replaces one value. Unknown keys are refused with the
nearest known one. A run that was killed goes on where it was when the same recipe is started again, and ends the same,
bit for bit, on the same machine. One that ends with an error after something was trained keeps what was trained, says
where, and the next run with the same output goes on from there, also when what comes later in the recipe was changed.

What is found out once can be kept and used again: `sensitivity.record` names a file for the record,
`sensitivity.analysis` one for the analysis (`--analyse` writes `exported/NAME-analysis/analysis.json`, too). A file
that was made of another network, of other samples or otherwise is refused.

The least a recipe needs:

```yaml
name: mine
network: {source: digits_resnet}
data:
  train: {source: digits, split: train}
  calibration: {source: digits, split: calibration}
  test: {source: digits, split: test}
```

## Pruning in a few lines

```yaml
prune: {sparsity: 0.5, round_to: 8}                          # half of the channels
prune: {speedup: 2.0, align: measure}                        # twice as fast, measured in ONNX Runtime here
prune: {at_most: 300000, measure: bytes}                     # network.safetensors of 300 kB
prune: {structure: weight, sparsity: 0.9, scope: erk}        # zeros: smaller files, not faster
prune: {structure: weight, pattern: "2:4", permute: true, ignore: [conv1]}
prune: {sparsity: 0.6, scope: sensitivity}                   # every layer alone costs the same loss
prune: {sparsity: 0.8, criterion: taylor, schedule: {name: iterative, steps: 4, epochs: 2}}
prune: {structure: weight, sparsity: 0.8, search: {init: hydra, objective: adversarial}}   # no training of weights
finetune: {epochs: 10, objective: {name: distillation, options: {temperature: 4.0, mix: 1.0}}}
sensitivity: {loss: energy, record: energy.safetensors}      # with criterion: score_fisher
```
"""


def document() -> str:
    """The whole page."""
    places: dict[type[BaseModel], list[str]] = {}
    _collect(Recipe, "", places)
    sections = [_describe(section, paths) for section, paths in places.items()]
    return "\n".join([INTRODUCTION, *sections, _criteria()])


def _collect(section: type[BaseModel], path: str, places: dict[type[BaseModel], list[str]]) -> None:
    """Where each section stands, in the order in which a reader meets them."""
    places.setdefault(section, []).append(path)
    for name, field in section.model_fields.items():
        for inner in _sections(field.annotation):
            _collect(inner, f"{path}.{name}" if path else name, places)


def _describe(section: type[BaseModel], paths: list[str]) -> str:
    title = ", ".join(f"`{path}`" for path in paths if path) or "The recipe"
    rows = [_row(name, field, paths[0]) for name, field in section.model_fields.items()]
    head = "| key | value | default | |\n|---|---|---|---|"
    return f"## {title}\n\n{(inspect.getdoc(section) or '').strip()}\n\n{head}\n" + "\n".join(rows) + "\n"


def _criteria() -> str:
    rows = [f"| `{name}` | {CRITERIA[name].advice} |" for name in CRITERIA]
    return "## Criteria\n\n| `prune.criterion` | when |\n|---|---|\n" + "\n".join(rows) + "\n"


def _row(name: str, field: FieldInfo, path: str) -> str:
    described = " ".join((field.description or "").split())
    if not described:
        raise ValueError(f"{path}.{name} has no description")
    return f"| `{name}` | {_type(field)} | {_default(field)} | {described} |"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "its own"
    value = field.default
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        value = [entry.name for entry in value]
    return f"`{json.dumps(value)}`"


def _type(field: FieldInfo) -> str:
    words = _words(field.annotation)
    limits = [
        f"{sign} {_number(getattr(part, name))}"
        for part in field.metadata
        for name, sign in SIGNS
        if hasattr(part, name)
    ]
    return words + (f" {', '.join(limits)}" if limits else "")


SIGNS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything"}


def _words(kind: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        inner = _words(arguments[0])
        limits = [
            f"{sign} {_number(getattr(part, name))}"
            for entry in arguments[1:]
            for part in getattr(entry, "metadata", ())
            for name, sign in SIGNS
            if hasattr(part, name)
        ]
        return f"{inner} {', '.join(limits)}" if limits else inner
    if origin in (Union, UnionType):
        return " or ".join("null" if part is type(None) else _words(part) for part in arguments)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"list of {_words(arguments[0])}"
    if origin is dict:
        return f"{_words(arguments[0])} -> {_words(arguments[1])}"
    return PLAIN.get(kind, "section")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _sections(kind: Any) -> list[type[BaseModel]]:
    """The sections inside a type."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [section for part in get_args(kind) for section in _sections(part)]


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
