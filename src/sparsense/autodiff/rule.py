"""What a differentiation rule is: one vector-Jacobian product per input of an operator, written next to its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.registry import Registry


@dataclass(frozen=True)
class Call:
    """A node as a rule sees it.

    Attributes:
        x: Inputs of the forward node; absent optional ones are None.
        y: Outputs of the forward node.
        deltas: Gradient of each output; None where the output is not used.
        node: The node itself.
    """

    x: Sequence[Any]  # ir.Value or None; Any keeps the one-line rules free of casts
    y: Sequence[ir.Value]
    deltas: Sequence[ir.Value | None]
    node: ir.Node

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, or the operator's default."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def input(self, index: int) -> Any:
        """An input, or None when the node does not have that many."""
        return self.x[index] if index < len(self.x) else None


VectorJacobian = Callable[[Builder, Any, Call], Any]
"""`(op, delta, call) -> gradient of one input`, where delta is the gradient of the first output."""

Rule = Callable[[int], VectorJacobian | None]
"""Index of an input -> its product; None when it has none."""

RULES: Registry[Rule] = Registry("differentiation rule")
STOPS: set[str] = set()


def vjp(op_type: str, *products: VectorJacobian | None) -> None:
    """Register an operator's products, one per input; None, or none given, for inputs that cannot be differentiated.

    Sums over broadcast axes are left to the walk, so `vjp("Add", lambda op, d, c: d, lambda op, d, c: d)` is complete.
    """
    RULES.add(op_type, lambda index: products[index] if index < len(products) else None)


def variadic(op_type: str, product: Callable[[Builder, Any, Call, int], Any]) -> None:
    """Register an operator with any number of like inputs (Concat, Sum); its product is told which one it serves."""
    RULES.add(op_type, lambda index: lambda op, delta, call: product(op, delta, call, index))


def no_gradient(*op_types: str) -> None:
    """Register operators whose derivative is zero wherever it exists (comparisons, Shape, Sign, ArgMax)."""
    for op_type in op_types:
        RULES.add(op_type, lambda _: None)
        STOPS.add(op_type)
