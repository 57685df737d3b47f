"""Oracles of the heads that look at gradients of the last layer, of channels and of the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsense.autodiff import Layer, weighted_layers
from sparsense.detector import Scored
from sparsense.oracles.features import last_linear
from sparsense.oracles.oracle import ORACLES
from sparsense.oracles.sensitivity import folded, match_layers

Array = NDArray[np.float64]


def _last_gradient(module: nn.Module, inputs: Tensor, target: Tensor | None, temperature: float = 1.0) -> Any:
    """Gradient of the last layer's weight for one sample: cross-entropy with soft labels, or with the prediction."""
    layer = last_linear(module, inputs)[0]
    logits = module(inputs)[0] / temperature
    label = torch.nn.functional.one_hot(logits.argmax(), len(logits)) if target is None else target
    (gradient,) = torch.autograd.grad(-(label * torch.log_softmax(logits, 0)).sum(), [layer.weight])
    return gradient.numpy()


def _sign(head: Any, published: float) -> float:
    """Whether large sizes are anomalous, +1, or small ones, -1."""
    if head.direction == "calibrated":
        return float(head.direction_)
    return published if head.direction == "published" else -published


@ORACLES.register("grad_norm")
def grad_norm(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """The gradient itself, and its L1 norm."""
    head: Any = scored.head
    temperature = head.temperature
    sign = _sign(head, -1.0)
    classes = module(inputs[:1]).shape[1]
    uniform = torch.full((classes,), 1 / classes, dtype=torch.float64)
    return np.array(
        [sign * np.abs(_last_gradient(module, x[None], uniform, temperature)).sum() * temperature for x in inputs]
    )


@ORACLES.register("exgrad")
def exgrad(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """One gradient per class, weighted with its probability."""
    scores = []
    for x in inputs:
        p = torch.softmax(module(x[None])[0], 0).detach()
        labels = torch.eye(len(p), dtype=torch.float64)
        norms = [np.abs(_last_gradient(module, x[None], label)).sum() for label in labels]
        scores.append(float(p.numpy() @ norms))
    return _sign(scored.head, 1.0) * np.array(scores)


@ORACLES.register("gradorth")
def gradorth(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """The gradient itself, times the projection."""
    head: Any = scored.head
    basis = head.state()["directions"]
    classes = module(inputs[:1]).shape[1]
    uniform = torch.full((classes,), 1 / classes, dtype=torch.float64)
    target = uniform if head.target == "uniform" else None
    norms = [np.linalg.norm(_last_gradient(module, x[None], target) @ basis @ basis.T) for x in inputs]
    return _sign(head, -1.0) * np.array(norms)


@ORACLES.register("odin")
def odin(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Two passes of torch."""
    head: Any = scored.head
    moved = inputs.clone().requires_grad_()
    log_p = torch.log_softmax(module(moved) / head.temperature, dim=1)
    (gradient,) = torch.autograd.grad(log_p.amax(dim=1).sum(), [moved])
    with torch.no_grad():
        p = torch.softmax(module(inputs + head.epsilon * gradient.sign()) / head.temperature, dim=1)
    return (1 - p.amax(dim=1)).numpy()


@ORACLES.register("gaia_z")
def gaia_z(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Shares of non-zero gradients, channel by channel."""
    layers = _inner(scored)
    scores = []
    for x in inputs:
        found, outputs = _outputs(module, layers, x[None], inputs[:1])
        gradients = _gradients(found.max(), outputs)
        shares = torch.cat(
            [_over_positions((g != 0).double(), layer) for g, layer in zip(gradients, layers, strict=True)]
        )
        scores.append(float(shares.square().mean()))
    return _sign(scored.head, 1.0) * np.array(scores)


@ORACLES.register("gaia_a")
def gaia_a(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Mean gradients of the sum of the features, against those of the sum of log-probabilities."""
    layers = _inner(scored)
    modules = match_layers(module, layers, inputs[:1])
    ratios = [folded(layer, found) for layer, found in zip(layers, modules, strict=True)]
    last, scores = last_linear(module, inputs[:1])[0], []
    for x in inputs:
        seen: list[Tensor] = []
        hook = last.register_forward_hook(lambda _, args, __, seen=seen: seen.append(args[0]))
        logits, outputs = _outputs(module, layers, x[None], inputs[:1])
        hook.remove()
        inner = _gradients(seen[0].sum(), outputs)
        (outer,) = torch.autograd.grad(torch.log_softmax(logits, 1).sum(), seen)
        found = [_over_positions(g, layer).numpy() for g, layer in zip(inner, layers, strict=True)]
        means = [mean / ratio for mean, ratio in zip(found, ratios, strict=True)]
        scores.append(np.square(np.concatenate(means)).mean() / outer.abs().mean().item())
    return _sign(scored.head, 1.0) * np.array(scores)


def _gradients(of: Tensor, outputs: list[list[Tensor]]) -> list[Tensor]:
    """By every layer's outputs, one below the other."""
    return [torch.cat(torch.autograd.grad(of, uses, retain_graph=True)) for uses in outputs]


def _over_positions(value: Tensor, layer: Layer) -> Tensor:
    """The mean of each channel of one sample, whose windows may lie in the batch; those of a linear layer are last."""
    linear = layer.node.op_type in ("Gemm", "MatMul")
    return value.flatten(0, -2).mean(0) if linear else value.movedim(1, 0).flatten(1).mean(1)


def _inner(scored: Scored) -> list[Layer]:
    head: Any = scored.head
    last = scored.network.last_linear
    return [layer for layer in weighted_layers(scored.network, layers=head.layers) if layer.node is not last]


def _outputs(
    module: nn.Module, layers: Sequence[Layer], inputs: Tensor, example: Tensor
) -> tuple[Tensor, list[list[Tensor]]]:
    """The network's output, and those of the layers, every time that they run; all with a gradient."""
    modules = match_layers(module, layers, example)
    seen: dict[Any, list[Tensor]] = {found: [] for found in modules}
    hooks = [found.register_forward_hook(lambda m, _, y: seen[m].append(y)) for found in modules]
    output = module(inputs)
    for hook in hooks:
        hook.remove()
    return output, [seen[found] for found in modules]
