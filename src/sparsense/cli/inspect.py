"""`sparsense inspect`: what is in an ONNX file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsense.cli.app import app
from sparsense.cli.tables import table
from sparsense.errors import printable

if TYPE_CHECKING:
    from sparsense.detector.costs import NetworkCost
    from sparsense.inspect import Inspection, Value


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Any ONNX file.")],
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Multiply-adds of every layer and of its gradients; what gradients cannot cross."),
    ] = False,
    output_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --cost: the model's answer.  [default: first output]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what is in an ONNX file.

    Its inputs, outputs, operators, and the card of a detector.
    """
    from sparsense.inspect import inspect_file

    found, costs = inspect_file(file), _network_cost(file, output_name) if cost else None
    if as_json:
        document: dict[str, Any] = asdict(found) | ({} if costs is None else asdict(costs))
        typer.echo(json.dumps(document, default=str))
        return
    for line in [*_describe(found), *([] if costs is None else _costs(costs, _whole_file(file)))]:
        typer.echo(printable(line))


def _network_cost(file: Path, output_name: str | None) -> NetworkCost:
    from sparsense.detector.costs import network_cost

    return network_cost(file, output_name=output_name)


def _whole_file(file: Path) -> str:
    """What the file itself multiplies, gradients of a detector included."""
    from sparsense.inspect import layer_costs

    nodes = layer_costs(file)
    known = [node.multiply_adds for node in nodes if node.multiply_adds is not None]
    unknown = len(nodes) - len(known)
    return f"this file: {sum(known):,} multiply-adds for one sample" + (
        f", without {unknown} nodes of unknown shape" if unknown else ""
    )


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
    columns = (found.card.get("preprocessing") or {}).get("columns", [])
    lines += [f"column     {column['name']}: {column['meaning']}" for column in columns]
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


def _costs(found: NetworkCost, whole_file: str) -> list[str]:
    """What every layer costs forward, and what its sensitivities add: of gates (channels) or of all weights."""
    header = ["layer", "operator", "weights", "forward", "+ gates", "+ weights"]
    rows = [(c.layer, c.op_type, c.weights, c.forward, c.gate, c.weight) for c in found.layers]
    totals = [None if any(row[i] is None for row in rows) else sum(int(row[i] or 0) for row in rows) for i in (3, 4, 5)]
    total = ("total", "", sum(c.weights for c in found.layers), *totals)
    ways = [f"  {obstacle}" for obstacle in found.obstacles] or ["  none"]
    lines = table(header, [*rows, total]) if rows else [found.problem or "no layers"]
    return ["multiply-adds for one sample", *lines, whole_file, "what gradients cannot cross", *ways]
