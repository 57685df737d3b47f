"""Attention as the newest exporters write it, one operator; written out when loaded, or differentiated as it is."""

from __future__ import annotations

import warnings

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sparsense.autodiff import differentiate, weighted_layers
from sparsense.autodiff.norms import sensitivity_norms
from sparsense.data.preprocessing import Preprocessing
from sparsense.graph import Session, forward_graph, load_graph
from sparsense.graph.simplify import simplify


class Attending(nn.Module):
    """Four tokens of six numbers, two heads."""

    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(6, 24), nn.Linear(8, 6), nn.Linear(6, 3)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x.view(-1, 4, 6)).view(-1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.head(torch.tanh(self.out(y.transpose(1, 2).reshape(-1, 4, 8))).mean(1))


@pytest.mark.parametrize(("causal", "loaded"), [(False, True), (True, False)])
def test_sensitivities(causal: bool, loaded: bool) -> None:
    torch.manual_seed(0)
    module = Attending(causal=causal).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            module, (torch.zeros(2, 24),), dynamo=True, opset_version=23, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("N")},),
        )  # fmt: skip
    proto = program.model_proto
    assert "Attention" in {node.op_type for node in proto.graph.node}
    model = load_graph(proto.SerializeToString()) if loaded else simplify(ir.from_proto(proto))
    network = forward_graph(model, Preprocessing("ND", "float32", 1.0))
    op, layers = network.op, weighted_layers(network)
    wrt = [*(layer.output for layer in layers), network.target]
    deltas = differentiate(op, of=network.output, wrt=wrt, seed=op.Mul(network.output, 1.0))
    norms = [sensitivity_norms(op, layer, deltas[layer.output])[0] for layer in layers]
    energy = op.ReduceSumSquare(deltas[network.target], [1], keepdims=0)
    second = differentiate(op, of=energy, wrt=[network.target])[network.target]
    inputs = np.random.default_rng(0).normal(size=(3, 24)).astype(np.float32)
    *found, curved = Session(network.model, [*norms, second], threads=1)(inputs)
    for index, row in enumerate(torch.tensor(inputs).double()):
        wanted, wanted_second = in_torch(module.double(), row[None].requires_grad_())
        np.testing.assert_allclose(sorted(norm[index] for norm in found), sorted(wanted), rtol=1e-5)
        np.testing.assert_allclose(curved[index], wanted_second, atol=1e-5 * np.abs(wanted_second).max())


def in_torch(module: nn.Module, x: Tensor) -> tuple[list[float], np.ndarray]:
    """Norms |w * dL/dw| of L = |y|^2 / 2, and the gradient of |dL/dx|^2, of one sample."""
    weights = [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]
    with sdpa_kernel(SDPBackend.MATH):
        *slopes, slope = torch.autograd.grad(module(x).square().sum() / 2, [*weights, x], create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), x)
    return [(w * g).norm().item() for w, g in zip(weights, slopes, strict=True)], second[0].numpy()
