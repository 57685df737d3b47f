"""Which weights of a network can be pruned, and the state that a pass must leave as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparsense.criteria.layout import Layout as Layout
from sparsense.errors import InputError, UnsupportedLayerError

PRUNABLE = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def prunable_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Convolutions (also transposed, any groups) and fully connected layers, by the name of their weight.

    A layer that occurs under several names, or whose weight is tied to another's, is listed once.

    Raises:
        UnsupportedLayerError: The weight is computed from other parameters (a parametrisation, weight norm,
            or a mask of `torch.nn.utils.prune`), so there is no one tensor to prune.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise UnsupportedLayerError(
            "", type(module).__name__, "a compiled script cannot be changed; prune the module that it was made of"
        )
    layers: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for name, layer in module.named_modules():
        if not isinstance(layer, PRUNABLE):
            continue
        refuse_computed_weight(name, layer)
        if id(layer.weight) not in seen:
            seen.add(id(layer.weight))
            layers[f"{name}.weight" if name else "weight"] = layer
    return layers


def recorded_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The prunable layers of a network that has some.

    Raises:
        InputError: It has none.
    """
    layers = prunable_layers(module)
    if not layers:
        raise InputError("recording sensitivities: the network has no convolution and no fully connected layer")
    return layers


def refuse_computed_weight(name: str, layer: nn.Module) -> None:
    """Refuse a layer whose weight is not a plain parameter."""
    kind = type(layer).__name__
    if parametrize.is_parametrized(layer, "weight"):
        raise UnsupportedLayerError(
            name, kind, "its weight is computed by a parametrisation; fix it first with "
            "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
        )  # fmt: skip
    if isinstance(getattr(layer, "weight_mask", None), Tensor):
        raise UnsupportedLayerError(
            name, kind, "it carries a mask of torch.nn.utils.prune; make it permanent first with "
            "torch.nn.utils.prune.remove(layer, 'weight')"
        )  # fmt: skip
    if isinstance(getattr(layer, "weight", None), nn.UninitializedParameter):
        raise UnsupportedLayerError(name, kind, "it is lazy and has no weight yet; run the network once first")
    if not isinstance(getattr(layer, "weight", None), nn.Parameter):
        raise UnsupportedLayerError(
            name, kind, "its weight is not a parameter but computed from others (weight or spectral norm); "
            "fold the norm into the weight first, for example with torch.nn.utils.remove_weight_norm(layer)"
        )  # fmt: skip


def prunable_weights(module: nn.Module) -> dict[str, Tensor]:
    """The prunable weights of a network, detached, by parameter name; they share memory with the network.

    Example:
        >>> list(prunable_weights(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))))
        ['0.weight', '2.weight']
    """
    return {name: weight_of(layer).detach() for name, layer in prunable_layers(module).items()}


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a prunable layer."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def channel_axis(layer: nn.Module) -> int:
    """The axis of a layer's *output* that holds its channels: 1 for convolutions, the last for Linear."""
    return -1 if isinstance(layer, nn.Linear) else 1


def weight_channels(layer: nn.Module) -> int:
    """How many output channels a prunable layer has."""
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert isinstance(channels, int)
    return channels


def layouts(module: nn.Module) -> dict[str, Layout]:
    """The layout of every prunable weight."""
    return {
        name: Layout(isinstance(layer, TRANSPOSED), int(getattr(layer, "groups", 1)))
        for name, layer in prunable_layers(module).items()
    }


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every submodule has its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def differentiable(module: nn.Module) -> Iterator[None]:
    """All floating parameters take gradients inside the block; afterwards each is as it was."""
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        for parameter, _ in flags:
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def refuse_inference_mode() -> None:
    """Refuse to work where torch records no gradients at all (`torch.no_grad()` alone is no obstacle).

    Raises:
        InputError: `torch.inference_mode()` is active.
    """
    if torch.is_inference_mode_enabled():
        raise InputError(
            "recording and pruning need gradients, which torch.inference_mode() forbids; call them outside of it, "
            "with tensors made outside of it"
        )


def network_sha256(module: nn.Module) -> str:
    """Hash of the names, shapes, types and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
