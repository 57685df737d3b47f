"""Weight gradients and gates of single layers against autograd, one sample after the other."""

from __future__ import annotations

import sys
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rule_cases.case import Draw
from rule_cases.layers import LAYERS, delta
from rule_cases.settings import RUNS
from sparsense.autodiff import gate_sensitivity
from sparsense.autodiff.weight_gradient import blocks, weight_gradient
from sparsense.graph.run import Session

TOLERANCE = 1e-5


def close(actual: np.ndarray, wanted: np.ndarray) -> None:
    assert actual.shape == wanted.shape
    assert np.abs(actual - wanted).max() <= TOLERANCE * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("kind", LAYERS)
@RUNS
@given(data=st.data())
def test_weight_gradient(kind: str, data: st.DataObject) -> None:
    """Inner products with random weights tell both the gradient and that the arrangement is the weight's."""
    draw = Draw(data.draw)
    case = LAYERS[kind](draw)
    op, truth = case.op, case.gradients()
    references = [draw.array(*case.layer.weight.shape).astype(np.float32) for _ in range(3)]
    outputs = []
    for reference in references:
        gradient, arranged = weight_gradient(op, replace(case.layer, weight=reference), delta(case))
        product = op.Mul(gradient, arranged)
        outputs += [op.ReduceSum(product, [1, 2], keepdims=0), op.ReduceSumSquare(product, [1, 2], keepdims=0)]
    found = Session(case.model, outputs, threads=1)({"input": case.inputs, "seed": case.seed})
    axes = tuple(range(1, truth.ndim))
    for reference, product, square in zip(references, found[::2], found[1::2], strict=True):
        close(product, (truth * reference).sum(axes))
        close(square, ((truth * reference) ** 2).sum(axes))


@RUNS
@given(data=st.data())
def test_large_layers_are_cut_into_blocks_and_kept_apart_in_the_cache(data: st.DataObject) -> None:
    """What is done to layers that do not fit into a cache, done to small ones."""
    case = LAYERS["conv"](Draw(data.draw))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["sparsense.autodiff.weight_gradient"], "LARGEST", 4)
        patch.setattr(sys.modules["sparsense.autodiff.unfold"], "PAGE", 1)
        found = blocks(case.op, case.layer, delta(case))
    elasticities = [case.op.Mul(block.gradient, block.weight) for block in found]
    squares = [case.op.ReduceSumSquare(elasticity, [1, 2], keepdims=0) for elasticity in elasticities]
    parts = Session(case.model, squares, threads=1)({"input": case.inputs, "seed": case.seed})
    truth = (case.gradients() * case.layer.weight) ** 2
    close(np.sum(parts, 0), truth.sum(tuple(range(1, truth.ndim))))
    assert sum(prod(block.weight.shape) for block in found) == case.layer.weight.size


@pytest.mark.parametrize("kind", LAYERS)
@RUNS
@given(data=st.data())
def test_gate_is_the_channels_sum_of_weight_times_gradient(kind: str, data: st.DataObject) -> None:
    draw = Draw(data.draw)
    case = LAYERS[kind](draw)
    elasticity = case.gradients() * case.layer.weight
    (gates,) = Session(case.model, [gate_sensitivity(case.op, case.layer, delta(case))], threads=1)(
        {"input": case.inputs, "seed": case.seed}
    )
    close(gates, by_channel(kind, case.layer, elasticity))


def by_channel(kind: str, layer: object, elasticity: np.ndarray) -> np.ndarray:
    """Sum over the weights of each output channel, [N, O]."""
    node = layer.node
    samples = len(elasticity)
    if kind == "conv_transpose":  # [N, I, O/g, *kernel]: the channels of group g come from its inputs
        group = node.attributes.get_int("group") or 1
        split = elasticity.reshape(samples, group, -1, *elasticity.shape[2:])
        return split.sum((2, *range(4, split.ndim))).reshape(samples, -1)
    if kind == "matmul" or (kind == "gemm" and not node.attributes.get_int("transB")):
        return elasticity.sum(1)
    return elasticity.reshape(samples, elasticity.shape[1], -1).sum(2)
