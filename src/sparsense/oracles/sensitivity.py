"""Oracles of the heads that look at weight sensitivities: one backward pass per sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsense.autodiff import Layer, arranged, weighted_layers
from sparsense.detector import Scored
from sparsense.errors import ExportError
from sparsense.graph.forward import ForwardGraph
from sparsense.oracles.oracle import ORACLES

Array = NDArray[np.float64]


@ORACLES.register("sensnorm")
def sensnorm(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Mean over layers of || r_l - s_l ||_p."""
    head: Any = scored.head
    layers = weighted_layers(scored.network, layers=head.layers)
    order = None if head.structure == "channel" else arrangements(scored.network, layers)
    state, scores, curved = head.state(), [], head.sensitivity == "crop"
    group = scored.network.group
    form: Any = {"structure": head.structure, "loss": head.loss}
    if curved:
        samples = means_of_groups(elasticities(module, layers, inputs, **form, curved=True), group)
    else:
        samples = elasticities(module, layers, inputs, **form, group=group)
    for sample in samples:
        distances = []
        for i, (layer, found) in enumerate(zip(layers, sample, strict=True)):
            usual = state[f"reference.{layer.name}"] if head.reference == "train" else np.zeros(1)
            if order is not None:
                found = found.ravel()[order[i]]
            values = found - usual if head.signed else np.abs(found) - np.abs(usual)
            distances.append(np.linalg.norm(values.ravel(), head.p))
        scores.append(np.mean(distances))
    return np.asarray(scores)


@ORACLES.register("sensnorm_profile")
def sensnorm_profile(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Squared Mahalanobis distance of the log norms."""
    return gaussian(scored, module, inputs, profiles(scored, module, inputs))


@ORACLES.register("sensnorm_profile_knn")
def sensnorm_profile_knn(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """All distances to the bank, sorted."""
    head: Any = scored.head
    state, scores = head.state(), []
    for profile in profiles(scored, module, inputs):
        white = state["whitening"] @ (profile - state["mean"])
        scores.append(np.sort(np.square(state["rows"] - white).sum(1))[head.k - 1])
    return np.array(scores)


@ORACLES.register("sensnorm_gates")
def sensnorm_gates(scored: Scored, module: nn.Module, inputs: Tensor) -> Any:
    """Squared Mahalanobis distance of the signed gate elasticities."""
    head: Any = scored.head
    layers = weighted_layers(scored.network, layers=head.layers)
    samples = elasticities(module, layers, inputs, structure="channel")
    gates = np.array([np.concatenate([gate.ravel() for gate in sample]) for sample in samples])
    return gaussian(scored, module, inputs, gates)


@torch.no_grad()
def gaussian(scored: Scored, module: nn.Module, inputs: Tensor, values: Array) -> Array:
    """Distance to the mean of the predicted class, or of all, one after the other."""
    state = scored.head.state()
    classes = module(inputs).argmax(1).tolist() if scored.head.options().get("by_class") else [0] * len(inputs)
    precision = state["whitening"].T @ state["whitening"]
    offsets = [value - state["means"][label] for value, label in zip(values, classes, strict=True)]
    return np.array([offset @ precision @ offset for offset in offsets])


def profiles(scored: Scored, module: nn.Module, inputs: Tensor) -> Array:
    """Log norms of the elasticities, [N, layers * orders]."""
    head: Any = scored.head
    layers = weighted_layers(scored.network, layers=head.layers)
    samples = elasticities(module, layers, inputs, structure=head.structure)
    norms = [[float(np.linalg.norm(s.ravel(), p)) for s in sample for p in head.p] for sample in samples]
    return np.log(np.maximum(norms, 1e-30))


def elasticities(
    module: nn.Module,
    layers: Sequence[Layer],
    inputs: Tensor,
    *,
    structure: str,
    loss: str = "logit",
    curved: bool = False,
    group: int = 1,
) -> Iterator[list[Array]]:
    """Signed elasticities w * dM/dw / M of the predicted raw logit, sample by sample: one array per layer.

    Args:
        module: In float64 and eval mode.
        layers: The graph's layers; the arrays have the layout of their weights.
        inputs: `[N, ...]`.
        structure: `weight`, or `channel` for sums `[1, O]`.
        loss: `logit`, or `cross_entropy` of the predicted class.
        curved: w * (H g) of the loss's logarithm in the place of the elasticity.
        group: M is the mean over so many consecutive samples.
    """
    modules = match_layers(module, layers, inputs[:1])
    weights = [found.weight for found in modules]
    for samples in torch.split(inputs, group):
        logits = torch.stack([module(sample[None])[0] for sample in samples])
        best = logits.amax(1) if loss == "logit" else torch.log_softmax(logits, 1).amax(1)
        size = best.mean() - 1e-8 if loss == "logit" else 1e-8 - best.mean()
        gradients = torch.autograd.grad(size.abs().log(), weights, create_graph=curved)
        if curved:
            gradients = torch.autograd.grad(_half_square(layers, modules, gradients), weights)
        yield [
            arrange(layer, found, (weight * gradient).detach(), structure)
            for layer, found, weight, gradient in zip(layers, modules, weights, gradients, strict=True)
        ]


def means_of_groups(samples: Iterable[list[Array]], size: int) -> Iterator[list[Array]]:
    """The mean of every `size` consecutive samples, layer by layer."""
    found = list(samples)
    for start in range(0, len(found), size):
        yield [np.mean(layer, axis=0) for layer in zip(*found[start : start + size], strict=True)]


def _half_square(layers: Sequence[Layer], modules: Sequence[Any], gradients: Sequence[Tensor]) -> Tensor:
    """|g|^2 / 2 of the gradient by the graph's weights, into which batch norms may be folded."""
    total = torch.zeros((), dtype=torch.float64)
    for layer, module, gradient in zip(layers, modules, gradients, strict=True):
        square = gradient.square() if module.weight.ndim == 2 else gradient.square().flatten(2).sum(2)
        ratio = np.ones(1) if getattr(module, "transposed", False) else np.square(folded(layer, module))[:, None]
        total = total + (square / torch.from_numpy(ratio)).sum() / 2
    return total


def arrange(layer: Layer, module: Any, values: Tensor, structure: str) -> Array:
    """From torch's layout of a weight to the node's own; or summed over the weights of each output channel, [1, O]."""
    if structure == "channel":
        return (values.sum(1) if isinstance(module, nn.Linear) else _channel_sums(module, values))[None].numpy()
    turned = isinstance(module, nn.Linear) and not layer.node.attributes.get_int("transB", 0)
    return (values.T if turned else values).numpy()


def arrangements(network: ForwardGraph, layers: Sequence[Layer]) -> list[NDArray[np.int64]]:
    """Where in the node's own weight the entries of the graph's matrices [R, S] come from."""
    numbered = [np.arange(layer.weight.size, dtype=np.int64).reshape(layer.weight.shape) for layer in layers]
    return [found.astype(np.int64) for found in arranged(network, layers, numbered)]


def _channel_sums(module: Any, values: Tensor) -> Tensor:
    if not module.transposed:
        return values.flatten(1).sum(1)
    grouped = values.reshape(module.groups, -1, *values.shape[1:])  # [g, I/g, O/g, *k]
    return grouped.flatten(3).sum((1, 3)).flatten()


def match_layers(module: nn.Module, layers: Sequence[Layer], example: Tensor) -> list[Any]:
    """The torch module behind each layer of a graph: by name, else by the order in which they run."""
    named = dict(module.named_modules())
    if all(layer.name in named for layer in layers):
        found = [named[layer.name] for layer in layers]
    else:
        found = _in_order(module, example)
    sizes = [layer.weight.size for layer in layers]
    if [m.weight.numel() for m in found] != sizes:
        raise ExportError(
            f"matching the graph's layers with torch modules: expected weights of {sizes} numbers, found "
            f"{[m.weight.numel() for m in found]}; "
            "restrict the head with layers=... to layers that appear in both"
        )
    return found


def _in_order(module: nn.Module, example: Tensor) -> list[Any]:
    order: list[Any] = []
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    hooks = [m.register_forward_hook(lambda m, *_: order.append(m)) for m in module.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        module(example)
    for hook in hooks:
        hook.remove()
    return order


def folded(layer: Layer, module: Any) -> Array:
    """What a folded batch norm multiplied each output channel with: the graph's weight over the module's, [O]."""
    if isinstance(module, nn.Linear):
        return np.ones(module.out_features)
    ours, theirs = layer.weight.astype(np.float64), module.weight.detach().numpy()
    if module.transposed:
        return np.ones(module.out_channels)  # batch norms are folded into ordinary convolutions alone
    axes = tuple(range(1, ours.ndim))
    return np.asarray((ours * theirs).sum(axes) / np.square(theirs).sum(axes))
