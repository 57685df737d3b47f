"""What a differentiation rule is: one vector-Jacobian product per input of an operator, written next to its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.errors import GraphError, UnsupportedOperatorError
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
        opset: Version of the default domain that gives the node its meaning.
    """

    x: Sequence[Any]  # ir.Value or None; Any keeps the one-line rules free of casts
    y: Sequence[ir.Value]
    deltas: Sequence[ir.Value | None]
    node: ir.Node
    opset: int

    @classmethod
    def of(cls, node: ir.Node, opset: int, deltas: Sequence[ir.Value | None] = ()) -> Call:
        """A node, without or with the gradients that arrive at its outputs."""
        return cls(node.inputs, node.outputs, deltas, node, opset)

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, or the operator's default; numbers in single precision, as files store them."""
        attribute = self.node.attributes.get(name)
        value = default if attribute is None else attribute.value
        return float(np.float32(value)) if isinstance(value, float) else value

    def attributes(self) -> dict[str, Any]:
        """All attributes that the node sets."""
        return {name: attribute.value for name, attribute in self.node.attributes.items()}

    def input(self, index: int) -> Any:
        """An input, or None when the node does not have that many."""
        return self.x[index] if index < len(self.x) else None

    def constant(self, index: int) -> Any:
        """The numpy array of an input that has to be a constant; None when the node does not have that input.

        Raises:
            GraphError: The input is computed at run time; names the node.
        """
        value = self.input(index)
        if value is None:
            return None
        if value.const_value is None:
            raise GraphError(
                f"differentiating node {self.node.name!r} ({self.node.op_type}): expected its input {index} "
                f"({value.name!r}) to be a constant, found that it is computed at run time; "
                "export the network with fixed sizes and parameters"
            )
        return value.const_value.numpy()

    def refuse(self, problem: str) -> UnsupportedOperatorError:
        """The error to raise for a form of the operator that has no rule."""
        return unsupported(self.node, problem)


VectorJacobian = Callable[[Builder, Any, Call], Any]
"""`(op, delta, call) -> gradient of one input`, where delta is the gradient of the first output."""


@dataclass(frozen=True)
class Rule:
    """How an operator sends gradients back.

    Attributes:
        product: Index of an input -> its vector-Jacobian product; None when it has none.
        flat: Whether a node's derivative is zero wherever it exists: gradients end there without an error.
        outputs: How many outputs may receive gradients; a rule for several reads `call.deltas`.
    """

    product: Callable[[int], VectorJacobian | None]
    flat: Callable[[ir.Node], bool] = lambda _: False
    outputs: int = 1


RULES: Registry[Rule] = Registry("differentiation rule")


def vjp(op_type: str, *products: VectorJacobian | None, flat: Callable[[ir.Node], bool] = lambda _: False) -> None:
    """Register an operator's products, one per input; None, or none given, for inputs that cannot be differentiated.

    Sums over broadcast axes are left to the walk, so `vjp("Add", lambda op, d, c: d, lambda op, d, c: d)` is complete.
    """
    RULES.add(op_type, Rule(lambda index: products[index] if index < len(products) else None, flat))


def variadic(op_type: str, product: Callable[[Builder, Any, Call, int], Any]) -> None:
    """Register an operator with any number of like inputs (Concat, Sum); its product is told which one it serves."""
    RULES.add(op_type, Rule(lambda index: lambda op, delta, call: product(op, delta, call, index)))


def several_outputs(op_type: str, product: Callable[[Builder, Call], Any]) -> None:
    """Register an operator of one input and several differentiable outputs (Split); its product reads `call.deltas`."""

    def of_all(op: Builder, _: Any, call: Call) -> Any:
        return product(op, call)

    RULES.add(op_type, Rule(lambda index: of_all if index == 0 else None, outputs=1 << 30))


def no_gradient(*op_types: str) -> None:
    """Register operators whose derivative is zero wherever it exists (Sign, Floor, random numbers)."""
    for op_type in op_types:
        RULES.add(op_type, Rule(lambda _: None, flat=lambda _: True))


def unsupported(node: ir.Node, problem: str) -> UnsupportedOperatorError:
    """The error for a node that a gradient cannot cross."""
    kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return UnsupportedOperatorError(
        f"differentiating the graph: node {node.name!r} ({kind}) {problem}. "
        f"Operators with a rule: {', '.join(sorted(RULES))}. Restrict the head to later layers with layers=..., "
        "export the network with other operators, or use a head without gradients",
        node=node.name or "",
        op_type=node.op_type,
    )
