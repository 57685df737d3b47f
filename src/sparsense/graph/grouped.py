"""Groups: inputs that belong together and are judged as one; the graph takes them along an axis of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph

GROUPS = "groups"
"""The batch axis of a graph whose samples are groups; `N` is that of the single inputs inside."""


def taking_groups(network: ForwardGraph, size: int) -> ForwardGraph:
    """The network with an input `[groups, size, ...]`; inside, all still see single inputs `[N, ...]`, in order.

    Args:
        network: With inputs `[N, ...]` and all nodes that a head adds; its graph is changed.
        size: Inputs in a group.
    """
    graph, single = network.model.graph, network.input
    nodes = list(graph)
    op = Builder(graph)  # made while the old nodes are there, so that no name is given twice
    single.name = "single_input"
    shape: list[Any] = [GROUPS, size, *list(single.shape or ())[1:]]
    given = ir.val("input", single.dtype, shape)
    graph.remove(nodes)
    graph.inputs[:] = [given]
    apart = _reshaped(op, given, [-1], after=2)
    apart.shape = single.shape
    single.replace_all_uses_with(apart)
    graph.extend(nodes)
    target = apart if network.target is single else network.target
    return replace(network, input=given, target=target, op=Builder(graph), group=size)


def together(op: Builder, value: ir.Value, size: int) -> ir.Value:
    """Values of single inputs group by group: [N, ...] -> [groups, size, ...]."""
    found = _reshaped(op, value, [-1, size], after=1)
    found.shape = ir.Shape([GROUPS, size, *list(value.shape or ())[1:]])
    return found


def mean_of_groups(op: Builder, value: ir.Value, size: int) -> ir.Value:
    """Mean over groups of consecutive inputs: [N, ...] -> [groups, ...]."""
    return op.ReduceMean(together(op, value, size), [1], keepdims=0)


def _reshaped(op: Builder, value: ir.Value, first: list[int], *, after: int) -> ir.Value:
    """Another division of the first axes; those from `after` on stay."""
    rest = list(value.shape or ())[after:]
    if all(isinstance(size, int) for size in rest):
        return op.Reshape(value, np.asarray([*first, *rest], np.int64))
    return op.Reshape(value, op.Concat(np.asarray(first, np.int64), op.Shape(value, start=after), axis=0))
