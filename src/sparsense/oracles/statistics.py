"""Oracles of the heads that compare feature maps or prototypes with what is usual."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsense.autodiff import weighted_layers
from sparsense.detector import Scored
from sparsense.oracles.features import features
from sparsense.oracles.oracle import ORACLES
from sparsense.oracles.sensitivity import folded, match_layers


@ORACLES.register("grood")
def grood(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """The outlier prototype's gradient by autograd, and the distance to all of the bank."""
    state, scores = scored.head.state(), []
    means = torch.from_numpy(state["means"])
    for h in torch.from_numpy(features(module, inputs)):
        outlier = torch.from_numpy(state["outlier"]).clone().requires_grad_()
        logits = -torch.linalg.vector_norm(h - torch.cat([means, outlier[None]]), dim=1)
        nearest = logits[:-1].argmax()  # cross-entropy with the nearest class
        (gradient,) = torch.autograd.grad(torch.log_softmax(logits, 0)[nearest], [outlier])
        scores.append(np.linalg.norm(state["gradients"] + gradient.numpy(), axis=1).min())
    return np.array(scores)


@ORACLES.register("gram")
def gram(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Whole Gram matrices, layer by layer and power by power."""
    head: Any = scored.head
    layers = weighted_layers(scored.network, layers=head.layers)
    modules = match_layers(module, layers, inputs[:1])
    shift = [_affine(layer, found) for layer, found in zip(layers, modules, strict=True)]
    state, scores = head.state(), []
    for x in inputs:
        seen: dict[Any, list[Any]] = {found: [] for found in modules}
        hooks = [
            found.register_forward_hook(lambda m, _, y, seen=seen: seen[m].append(_channels_first(m, y)))
            for found in modules
        ]
        with torch.no_grad():
            p = torch.softmax(module(x[None])[0], 0).numpy()
        for hook in hooks:
            hook.remove()
        maps = [
            np.concatenate(seen[found], axis=1) * scale[:, None] + offset[:, None]
            for found, (scale, offset) in zip(modules, shift, strict=True)
        ]
        sums = np.concatenate([_row_sums(z, power) for power in head.powers for z in maps])
        label = min(int(p.argmax()), len(state["lowest"]) - 1)  # or the only row, of all classes
        low, high = state["lowest"][label], state["highest"][label]
        below = np.maximum(low - sums, 0) / np.maximum(np.abs(low), 1e-6)
        above = np.maximum(sums - high, 0) / np.maximum(np.abs(high), 1e-6)
        scores.append((state["weights"] * (below + above)).sum() / p.max())
    return np.array(scores)


def _channels_first(module: Any, output: Any) -> Any:
    """[C, positions] of one sample, whose windows may lie in the batch; channels of a linear layer are last."""
    turned = np.moveaxis(output.numpy(), -1 if isinstance(module, nn.Linear) else 1, 0)
    return turned.reshape(len(turned), -1)


def _affine(layer: Any, module: Any) -> tuple[Any, Any]:
    """From a module's output to the graph's, into which a batch norm may be folded: scale and shift per channel."""
    ratio = folded(layer, module)
    own = np.zeros(len(ratio)) if module.bias is None else module.bias.detach().numpy()
    ours = np.zeros(len(ratio)) if layer.bias is None else layer.bias.astype(np.float64)
    return ratio, ours - ratio * own


def _row_sums(z: Any, power: int) -> Any:
    matrix = z**power @ (z**power).T
    total = matrix.sum(1)
    return np.sign(total) * np.abs(total) ** (1 / power)
