"""Passes without data: synaptic flow, and the batch norm scale behind every layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparsense.errors import InputError
from sparsense.recording.layers import (
    differentiable,
    evaluating,
    network_sha256,
    prunable_layers,
    recorded_layers,
    weight_channels,
    weight_of,
)
from sparsense.recording.state import copy_of, first_input, first_output, untouched
from sparsense.sensitivity import RecordInfo, SensitivityRecord

BATCH_NORM = nn.modules.batchnorm._BatchNorm
NORMS = (BATCH_NORM, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Softmax,
)  # fmt: skip


def record_flow(module: nn.Module, input_shape: tuple[int, ...]) -> SensitivityRecord:
    """Moment `flow`: dR/d|w| of the synaptic flow R = 1^T (product of |W_l|) 1.

    R is the sum of the outputs for an input of ones, of a copy in float64 with absolute weights, no biases,
    norms reduced to their absolute scale and activations to the identity (float32 overflows on deep networks).

    Args:
        module: Any network; zeroed weights count as pruned.
        input_shape: One input without the batch.

    Raises:
        InputError: The flow is not finite.

    Reference:
        Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow",
        NeurIPS 2020, arXiv:2006.05467.
    """
    twin = _linearised(module)
    weights = {name: weight_of(layer) for name, layer in recorded_layers(twin).items()}
    with evaluating(twin), differentiable(twin):
        total = first_output(twin, torch.ones(1, *input_shape, dtype=torch.float64)).sum()
        if not bool(torch.isfinite(total)):
            raise InputError(f"the synaptic flow of the network is {float(total.detach())}, not a finite number; "
                             "prune with another criterion")  # fmt: skip
        flows = torch.autograd.grad(total, list(weights.values()), allow_unused=True, materialize_grads=True)
    moments = {name: {"flow": flow.numpy()} for name, flow in zip(weights, flows, strict=True)}
    return SensitivityRecord(moments, {}, RecordInfo(network_sha256=network_sha256(module)))


def record_norm_scales(module: nn.Module, example_input: Tensor) -> SensitivityRecord:
    """Gate moment `norm_scale` `[O]`: the absolute scale of the batch norm that directly follows a layer.

    A layer followed by no batch norm (or by one without a scale) gets ones.

    Args:
        module: Any network.
        example_input: What it can be run on.
    """
    layers = prunable_layers(module)
    made: dict[int, str] = {}
    alive: list[Tensor] = []  # an id is only good while its tensor lives
    scales = {name: torch.ones(weight_channels(layer)) for name, layer in layers.items()}

    def leave(name: str) -> Callable[..., None]:
        def hook(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            made[id(output)] = name
            alive.append(output)

        return hook

    def enter(norm: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        name = made.get(id(first_input(args, kwargs)))
        if name is not None and isinstance(norm.weight, Tensor):
            scales[name] = norm.weight.detach().abs()

    handles = [layer.register_forward_hook(leave(name)) for name, layer in layers.items()]
    norms = [part for part in module.modules() if isinstance(part, BATCH_NORM)]
    handles += [norm.register_forward_pre_hook(enter, with_kwargs=True) for norm in norms]
    try:
        with untouched(module), evaluating(module), torch.no_grad():
            first_output(module, example_input)
    finally:
        for handle in handles:
            handle.remove()
    gates = {name: {"norm_scale": scale.double().cpu().numpy()} for name, scale in scales.items()}
    return SensitivityRecord({}, gates, RecordInfo(network_sha256=network_sha256(module)))


@torch.no_grad()
def _linearised(module: nn.Module) -> nn.Module:
    twin = copy_of(module).cpu().double()
    for part in twin.modules():
        if isinstance(part, NORMS):
            part.register_forward_hook(_scale_only)
        if isinstance(part, ACTIVATIONS):
            part.register_forward_hook(lambda _part, inputs, _output: inputs[0])
            part.__dict__.update(inplace=False)
    for name, parameter in twin.named_parameters():
        parameter.mul_(0) if "bias" in name.rpartition(".")[2] else parameter.abs_()
    return twin


def _scale_only(norm: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> Tensor:
    x, scale = inputs[0], norm.weight
    if not isinstance(scale, Tensor):
        return x
    over_last = isinstance(norm, nn.LayerNorm | nn.RMSNorm)
    return x * (scale if over_last else scale.reshape(-1, *[1] * (x.ndim - 2)))
