"""What a network costs: parameters, and multiply-adds for one sample, by layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsense.pruning.protect import Example, as_arguments, run_example
from sparsense.recording.layers import PRUNABLE
from sparsense.recording.state import bare_copy, first_input


@dataclass(frozen=True)
class Cost:
    """Parameters of the whole network, and multiply-adds per sample of its convolutions and fully connected layers.

    Args:
        parameters: All numbers in parameters (shared ones once).
        multiply_adds: Per sample; one multiplication with one addition counts as one.
        by_layer: Layer name -> multiply-adds per sample.
    """

    parameters: int
    multiply_adds: int
    by_layer: dict[str, int]


def measure_cost(module: nn.Module, example_input: Example) -> Cost:
    """Count a network's parameters and multiply-adds by running it once.

    Counted: convolutions (also transposed), fully connected layers (at every position) and the projections of
    `nn.MultiheadAttention`. Not counted: additions of biases, norms, activations, products of activations.

    Args:
        module: Any network; left as it was.
        example_input: One batch (or a tuple of arguments); the first axis is the batch.

    Example:
        >>> measure_cost(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)), torch.zeros(2, 3, 4, 4)).multiply_adds
        3456
    """
    positions = measure_positions(module, example_input)
    layers = dict(module.named_modules())
    by_layer = {name: round(count * _weights(layers[name])) for name, count in positions.items()}
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Cost(parameters, sum(by_layer.values()), by_layer)


def measure_positions(module: nn.Module, example_input: Example) -> dict[str, float]:
    """Layer name -> how often each of its weights is multiplied per sample, over all calls."""
    counts: dict[str, float] = {}
    samples = len(as_arguments(example_input)[0])
    twin = bare_copy(module)
    for name, layer in twin.named_modules():
        if isinstance(layer, (*PRUNABLE, nn.MultiheadAttention)):
            layer.register_forward_hook(_counter(counts, name, samples), with_kwargs=True)
    with torch.no_grad():
        run_example(twin, example_input)
    return counts


def _counter(counts: dict[str, float], name: str, samples: int) -> Callable[[nn.Module, Any, Any, Any], None]:
    def hook(layer: nn.Module, args: Any, kwargs: Any, output: Tensor | tuple[Tensor, ...]) -> None:
        counts[name] = counts.get(name, 0.0) + _positions(layer, first_input(args, kwargs), output) / samples

    return hook


def _positions(layer: nn.Module, entered: Tensor, left: Tensor | tuple[Tensor, ...]) -> float:
    if isinstance(layer, nn.Linear | nn.MultiheadAttention):
        return entered.numel() / entered.shape[-1]
    transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    side = entered if transposed or not isinstance(left, Tensor) else left
    return side.numel() / side.shape[1]


def _weights(layer: nn.Module) -> int:
    if isinstance(layer, nn.MultiheadAttention):
        return sum(parameter.numel() for name, parameter in layer.named_parameters() if "weight" in name)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.numel()
