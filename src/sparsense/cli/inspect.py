"""`sparsense inspect`: what is in an ONNX file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsense.cli.app import app
from sparsense.cli.tables import table

if TYPE_CHECKING:
    from sparsense.inspect import Inspection, LayerCost, Value


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Any ONNX file.")],
    cost: Annotated[bool, typer.Option("--cost", help="Multiply-adds of every layer, for one sample.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what is in an ONNX file.

    Its inputs, outputs, operators, and the card of a detector.
    """
    from sparsense.inspect import inspect_file, layer_costs

    found, layers = inspect_file(file), layer_costs(file) if cost else []
    if as_json:
        document: dict[str, Any] = asdict(found) | {"layers": [asdict(layer) for layer in layers]}
        typer.echo(json.dumps(document, default=str))
        return
    for line in [*_describe(found), *(_costs(layers) if cost else [])]:
        typer.echo(line)


def _describe(found: Inspection) -> list[str]:
    operators = ", ".join(f"{name} {count}" for name, count in found.operators.items())
    lines = [
        f"{found.path}: {found.size:,} bytes, opset {found.opset}, {found.parameters:,} parameters",
        *(f"input      {_signature(value)}" for value in found.inputs),
        *(f"output     {_signature(value)}" for value in found.outputs),
        f"operators  {operators}",
    ]
    if found.card is None:
        return [*lines, "no card: this is not a detector; sparsense attach makes one of it"]
    return [*lines, "card", *(f"  {line}" for line in _outline(found.card))]


def _outline(value: object) -> list[str]:
    """A card to look at: nested mappings as indented lines, long lists and texts as their length."""
    if isinstance(value, dict):
        lines = []
        for key, inner in value.items():
            first, *rest = _outline(inner) or ["{}"]
            nested = isinstance(inner, dict) and inner
            lines += [f"{key}:", *(f"  {line}" for line in (first, *rest))] if nested else [f"{key}: {first}"]
        return lines
    if isinstance(value, list) and (len(value) > 8 or any(isinstance(item, dict | list) for item in value)):
        return [f"({len(value)} entries)"]
    if isinstance(value, str) and "\n" in value:
        return [f"({len(value.splitlines())} lines)"]
    return [value if isinstance(value, str) else json.dumps(value)]


def _signature(value: Value) -> str:
    return f"{value.name}: {value.dtype} [{', '.join(map(str, value.shape))}]"


def _costs(layers: list[LayerCost]) -> list[str]:
    header = ["layer", "operator", "output", "parameters", "multiply-adds"]
    rows = [(c.name, c.operator, "x".join(map(str, c.output_shape)), c.parameters, c.multiply_adds) for c in layers]
    known = [layer.multiply_adds for layer in layers if layer.multiply_adds is not None]
    unknown = len(layers) - len(known)
    total = f"total {sum(known):,} multiply-adds for one sample"
    return [*table(header, rows), total + (f", without {unknown} of unknown shape" if unknown else "")]
