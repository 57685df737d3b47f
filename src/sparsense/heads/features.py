"""The last fully connected layer: what goes in, and what it would answer to something else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.errors import GraphError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.graph.last_linear import last_linear

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class LastLayer:
    """f = h W + b.

    Attributes:
        weight: [F, K].
        bias: [K].
    """

    weight: Matrix
    bias: Matrix

    @classmethod
    def of(cls, network: ForwardGraph) -> LastLayer:
        """Read the constants; GraphError when they are computed at run time."""
        found = last_linear(network.output)
        node, attributes = found.node, found.node.attributes
        weight = _matrix(_constant(node.inputs[1], node), node)
        if node.op_type == "Gemm":
            weight = weight.T if attributes.get_int("transB", 0) else weight
            weight = weight * np.float32(attributes.get_float("alpha", 1.0))
        bias = np.zeros(weight.shape[1], np.float32)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = bias + _constant(node.inputs[2], node).reshape(-1) * np.float32(attributes.get_float("beta", 1.0))
        for value in found.added:
            bias = bias + _constant(value, node).reshape(-1)
        return cls(np.ascontiguousarray(weight), bias)

    def logits(self, op: Builder, features: ir.Value) -> ir.Value:
        """The answer [N, K] to features [N, F]."""
        return op.Gemm(features, self.weight, self.bias)

    @cached_property
    def origin(self) -> NDArray[np.float64]:
        """The features [F] of least norm that make all logits as near to 0 as they can be: -(W^+) b."""
        return -np.linalg.pinv(self.weight.T.astype(np.float64)) @ self.bias


def has_last_layer(network: ForwardGraph) -> bool:
    """Whether the logits come from a fully connected layer with constant weights, over features [N, F]."""
    try:
        LastLayer.of(network)
        return network.features.shape is not None and len(network.features.shape) == 2
    except GraphError:
        return False


def _constant(value: ir.Value | None, node: ir.Node) -> Matrix:
    if value is None or value.const_value is None:
        raise GraphError(
            f"reading the last fully connected layer: expected constant weights, found that node {node.name!r} "
            f"({node.op_type}) computes them at run time; use a head that needs only logits or sensitivities"
        )
    return np.asarray(value.const_value.numpy(), np.float32)


def _matrix(weight: Matrix, node: ir.Node) -> Matrix:
    """[F, K], also where axes of size 1 stand before them."""
    if weight.size != np.prod(weight.shape[-2:]):
        raise GraphError(
            f"reading the last fully connected layer: expected one matrix of weights, found that node {node.name!r} "
            f"({node.op_type}) multiplies by {list(weight.shape)}; use a head that needs only logits or sensitivities"
        )
    return weight.reshape(weight.shape[-2:])
