"""Where an untrained autoencoder of images begins: at the mean colour of what it will learn to draw."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsense.training.engine import device_of

LAYERS = (nn.Conv2d, nn.ConvTranspose2d)
LEAST = 0.01
"""Of a mean, and of what is left to 1: a sigmoid that starts further out hardly passes gradients."""
ROUNDING = 1e-4
"""Of pixels that were brought to [0, 1]."""


@torch.no_grad()
def start_at_mean(module: nn.Module, inputs: Tensor) -> bool:
    """Set the last bias so that the sigmoid behind it gives the mean of the training images, channel by channel.

    Otherwise it gives a half, the first steps of dark images all say "darker", and may shut units for good. Of tables
    it would set each column by itself, and take from GradCon's mean gradient what the first steps tell about them.

    Args:
        module: Untrained; changed where it ends in a layer with a bias and a sigmoid.
        inputs: Training samples as the network sees them; images are `[N, C, H, W]` in [0, 1].

    Returns:
        Whether it was changed.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Sigmoid())
        >>> start_at_mean(network, torch.tensor([[0.1, 0.5], [0.3, 0.5]])[:, :, None, None])
        True
        >>> torch.sigmoid(network[0].bias).detach()
        tensor([0.2000, 0.5000])
    """
    if inputs.ndim != 4:
        return False
    layer = _before_the_sigmoid(module, inputs[:2])
    if layer is None or layer.bias is None or inputs.min() < -ROUNDING or inputs.max() > 1 + ROUNDING:
        return False
    mean = inputs.mean([0, 2, 3])
    if layer.bias.shape != mean.shape:
        return False
    layer.bias.copy_(torch.logit(mean.clamp(LEAST, 1 - LEAST)))
    return True


def _before_the_sigmoid(module: nn.Module, inputs: Tensor) -> nn.Conv2d | nn.ConvTranspose2d | None:
    """The layer whose output goes into the sigmoid that gives the network's answer; found by running it."""
    made: dict[int, nn.Module] = {}  # by the identity of what a layer gave
    came: dict[int, int] = {}
    kept: list[Tensor] = []  # alive, so that no identity is used twice

    def watch(part: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        kept.extend([*given, answer])
        made[id(answer)], came[id(answer)] = part, id(given[0]) if given else 0

    leaves = [part for part in module.modules() if isinstance(part, (nn.Sigmoid, *LAYERS))]
    hooks = [part.register_forward_hook(watch) for part in leaves]
    try:
        answer = module.eval()(inputs.to(device_of(module)))
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(made.get(id(answer)), nn.Sigmoid):
        return None
    layer = made.get(came[id(answer)])
    return layer if isinstance(layer, LAYERS) else None
