"""What differentiation adds to ResNet-20: no work twice, nothing for nothing, few bytes, few multiply-adds."""

from __future__ import annotations

from collections import Counter
from functools import cache
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sparsense.autodiff import differentiate, gate_sensitivities, weighted_layers
from sparsense.autodiff.differentiate import ancestors
from sparsense.autodiff.norms import sensitivity_norms
from sparsense.data.dataset import Dataset
from sparsense.detector import fit_head
from sparsense.graph import ForwardGraph, forward_graph, load_graph
from sparsense.graph.run import with_outputs
from sparsense.heads import HEADS
from sparsense.networks import load_network
from sparsense.networks.network import Network
from sparsense.to_onnx import export_forward

STRUCTURES = ("weight", "channel")


@cache
def network() -> Network:
    return load_network("cifar_resnet20")


@cache
def forward() -> tuple[onnx.ModelProto, ForwardGraph]:
    proto = export_forward(network())
    return proto, forward_graph(load_graph(proto), network().preprocessing)


@cache
def attached(structure: str) -> ir.Model:
    """A whole detector with the sensitivity profile."""
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)
    head = HEADS["sensnorm_profile"](structure=structure)
    data = Dataset("noise", images)
    scored = fit_head(forward()[1].copy(), head, data, preprocessing=network().preprocessing, batch_size=24)
    return with_outputs(scored.network.model, [scored.score, scored.network.output])


def is_constant(value: ir.Value) -> bool:
    return value.const_value is not None


def constant_nodes(model: ir.Model) -> list[ir.Node]:
    """Nodes whose inputs are constants, directly or through others."""
    fixed: set[ir.Value] = set()
    found = []
    for node in model.graph:
        if node.inputs and all(value is None or is_constant(value) or value in fixed for value in node.inputs):
            fixed.update(node.outputs)
            found.append(node)
    return found


@pytest.mark.parametrize("structure", STRUCTURES)
def test_no_node_is_there_twice(structure: str) -> None:
    def key(node: ir.Node) -> Any:
        attributes = sorted((name, repr(a.value)) for name, a in node.attributes.items())
        return node.domain, node.op_type, tuple(node.inputs), tuple(attributes)

    counts = Counter(map(key, attached(structure).graph))
    assert [node for node, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_node_is_needed(structure: str) -> None:
    model = attached(structure)
    needed = set().union(*(ancestors(output) for output in model.graph.outputs))
    assert [node.name for node in model.graph if node not in needed] == []


@pytest.mark.parametrize("structure", STRUCTURES)
def test_what_is_constant_is_folded_but_for_the_weights_own_copies(structure: str) -> None:
    """A weight in another order is written as nodes, which runtimes fold, so that the file holds it once."""
    model = attached(structure)
    weights = {name for name, value in model.graph.initializers.items() if value.const_value.size >= 100}
    for node in constant_nodes(model):
        origins = {x.name for parent in {node, *ancestors(node.outputs[0])} for x in parent.inputs if x is not None}
        assert origins & weights, f"{node.name} computes a constant"


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_file_grows_by_little(structure: str) -> None:
    plain = forward()[0].ByteSize()
    assert ir.to_proto(attached(structure)).ByteSize() <= 1.1 * plain + 200_000


def multiply_adds(model: ir.Model) -> int:
    """Of convolutions and matrix products over one sample; those of constants are done when the file is loaded."""
    fixed = set(constant_nodes(model))
    return sum(_of_node(node) for node in model.graph if node not in fixed)


def _of_node(node: ir.Node) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    left, right = (_sizes(value) for value in node.inputs[:2])
    if node.op_type == "Conv":
        return prod(_sizes(node.outputs[0])) * prod(right[1:])
    if node.op_type == "ConvTranspose":
        return prod(left) * prod(right[1:])
    inner = left[0] if node.attributes.get_int("transA") else left[-1]
    return prod(_sizes(node.outputs[0])) * inner


def _sizes(value: ir.Value) -> list[int]:
    sizes = [size if isinstance(size, int) else 1 for size in value.shape]
    assert all(isinstance(size, int) for size in list(value.shape)[1:]), f"{value.name}: {value.shape}"
    return sizes


def test_multiply_adds() -> None:
    """Backward through all layers but the first costs a forward pass less one layer; weight gradients one more."""
    graph = forward()[1].copy()
    op, layers = graph.op, weighted_layers(graph)
    deltas = differentiate(op, of=graph.output, wrt=[layer.output for layer in layers])
    gates = gate_sensitivities(op, layers, deltas)
    norms = [sensitivity_norms(op, layer, deltas[layer.output])[0] for layer in layers]
    plain, gated, weighed = (
        multiply_adds(with_outputs(graph.model, outputs)) for outputs in ([graph.output], gates, norms)
    )
    assert 40e6 < plain < 42e6  # 41 million, as published
    assert gated <= 2.05 * plain
    assert weighed <= 3.1 * plain
