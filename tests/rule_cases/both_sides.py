"""Two networks written twice, as graph and in torch, with the same weights by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.nn.functional as F

from rule_cases.networks import named
from sparsense.data.preprocessing import Preprocessing
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph, forward_graph

Weights = dict[str, Any]
RANDOM = np.random.default_rng(0)
CONVOLUTIONAL: Weights = {
    "stem": RANDOM.normal(size=(6, 3, 3, 3)) * 0.3, "depth": RANDOM.normal(size=(6, 1, 3, 3)) * 0.5,
    "point": RANDOM.normal(size=(8, 6, 1, 1)) * 0.5, "skip": RANDOM.normal(size=(8, 6, 1, 1)) * 0.5,
    "up": RANDOM.normal(size=(8, 4, 2, 2)) * 0.5, "fc": RANDOM.normal(size=(4, 5)),
}  # fmt: skip
TOKENS: Weights = {
    "embed": RANDOM.normal(size=(3, 6)) * 0.5, "qk": RANDOM.normal(size=(6, 6)) * 0.5,
    "value": RANDOM.normal(size=(6, 6)) * 0.5, "mix": RANDOM.normal(size=(4, 4)) * 0.5,
    "fc": RANDOM.normal(size=(6, 5)),
}  # fmt: skip


def convolutional_graph(op: Builder, x: ir.Value, w: Weights, activate: str) -> ir.Value:
    act = lambda value: getattr(op, activate)(value)  # noqa: E731
    y = act(op.Conv(x, w["stem"], pads=[1] * 4))
    z = act(op.Conv(y, w["depth"], pads=[1] * 4, strides=[2, 2], group=6))
    z = op.Add(op.Conv(z, w["point"]), op.Conv(y, w["skip"], strides=[2, 2]))
    z = act(op.ConvTranspose(act(z), w["up"], strides=[2, 2]))
    return op.Gemm(op.Flatten(op.GlobalAveragePool(z)), w["fc"])


def convolutional_torch(x: torch.Tensor, w: Weights, act: Any) -> torch.Tensor:
    y = act(F.conv2d(x, w["stem"], padding=1))
    z = act(F.conv2d(y, w["depth"], padding=1, stride=2, groups=6))
    z = F.conv2d(z, w["point"]) + F.conv2d(y, w["skip"], stride=2)
    return act(F.conv_transpose2d(act(z), w["up"], stride=2)).mean((2, 3)) @ w["fc"]


def token_graph(op: Builder, x: ir.Value, w: Weights, activate: str) -> ir.Value:
    y = op.LayerNormalization(op.MatMul(op.Reshape(x, [-1, 4, 3]), w["embed"]), np.ones(6, np.float32))
    scores = op.MatMul(op.MatMul(y, w["qk"]), op.Transpose(y, perm=[0, 2, 1]))
    y = op.Add(y, op.MatMul(op.Softmax(scores, axis=-1), op.MatMul(y, w["value"])))
    y = getattr(op, activate)(op.MatMul(w["mix"], y))
    return op.MatMul(op.ReduceMean(y, [1], keepdims=0), w["fc"])


def token_torch(x: torch.Tensor, w: Weights, act: Any) -> torch.Tensor:
    y = F.layer_norm(x.reshape(-1, 4, 3) @ w["embed"], [6])
    y = y + (y @ w["qk"] @ y.transpose(1, 2)).softmax(-1) @ (y @ w["value"])
    return act(w["mix"] @ y).mean(1) @ w["fc"]


def network_of(make: Any, shape: list[int], weights: Weights, activate: str) -> ForwardGraph:
    x = ir.val("x", ir.DataType.FLOAT, ["N", *shape])
    op = Builder(ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="second"))
    values = {name: named(op, f"{name}.weight", array.astype(np.float32)) for name, array in weights.items()}
    op.graph.outputs.append(make(op, x, values, activate))
    layout = "NCHW" if len(shape) == 3 else "ND"
    return forward_graph(ir.Model(op.graph, ir_version=10), Preprocessing(layout, "float32", 1.0))


KINDS: dict[str, tuple[Any, Any, Weights, list[int]]] = {
    "convolutional": (convolutional_graph, convolutional_torch, CONVOLUTIONAL, [3, 8, 8]),
    "tokens": (token_graph, token_torch, TOKENS, [12]),
}


def in_double(weights: Weights) -> Weights:
    """The weights as torch parameters in float64, rounded as the graph holds them."""
    return {name: torch.tensor(w.astype(np.float32)).double().requires_grad_() for name, w in weights.items()}
