"""What is differentiated: losses and detection scores, one number per sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from sparsense.errors import InputError
from sparsense.registry import Registry

Loss = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
"""(outputs, inputs, labels or None) -> one number per sample, `[N]`."""

LOSSES: Registry[Loss] = Registry("loss")


@LOSSES.register("cross_entropy")
def cross_entropy(outputs: Tensor, _inputs: Tensor, labels: Tensor | None) -> Tensor:
    """-log softmax(f)_y; without labels y is the network's own prediction."""
    return functional.cross_entropy(outputs, _classes(outputs, labels), reduction="none")


@LOSSES.register("raw_logit")
def raw_logit(outputs: Tensor, _inputs: Tensor, labels: Tensor | None) -> Tensor:
    """-f_y; without labels y is the network's own prediction.

    The loss of the sensitivity norm; its elasticities are divided by the loss: w * g / (L + 1e-8).
    """
    return -outputs.gather(1, _classes(outputs, labels)[:, None])[:, 0]


@LOSSES.register("energy")
def energy(outputs: Tensor, _inputs: Tensor, _labels: Tensor | None) -> Tensor:
    """-log sum exp f: the energy score, higher = more anomalous."""
    return -torch.logsumexp(outputs, 1)


@LOSSES.register("max_softmax")
def max_softmax(outputs: Tensor, _inputs: Tensor, _labels: Tensor | None) -> Tensor:
    """-max softmax f: the score of the most probable class, higher = more anomalous."""
    return -torch.softmax(outputs, 1).amax(1)


@LOSSES.register("entropy")
def entropy(outputs: Tensor, _inputs: Tensor, _labels: Tensor | None) -> Tensor:
    """Entropy of softmax f, higher = more anomalous."""
    return -(torch.softmax(outputs, 1) * torch.log_softmax(outputs, 1)).sum(1)


@LOSSES.register("reconstruction")
def reconstruction(outputs: Tensor, inputs: Tensor, _labels: Tensor | None) -> Tensor:
    """Mean squared difference between output and input: loss and score of an autoencoder."""
    if outputs.shape != inputs.shape:
        raise InputError(
            "the loss 'reconstruction' needs an output shaped like the input "
            f"{tuple(inputs.shape)}; got {tuple(outputs.shape)}"
        )
    return (outputs - inputs).square().flatten(1).mean(1)


def per_sample_loss(loss: str | Loss) -> Loss:
    """A registered loss by name, or the function itself."""
    return LOSSES[loss] if isinstance(loss, str) else loss


def loss_name(loss: str | Loss) -> str:
    """The name under which a loss is written into a record."""
    return loss if isinstance(loss, str) else getattr(loss, "__qualname__", type(loss).__name__)


def _classes(outputs: Tensor, labels: Tensor | None) -> Tensor:
    if outputs.ndim != 2:
        raise InputError(f"a loss over classes needs logits [N, K]; the network gave {tuple(outputs.shape)}")
    if labels is None:
        return outputs.detach().argmax(1)
    classes = outputs.shape[1]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise InputError(f"labels must lie in [0, {classes}), as the network has {classes} outputs; "
                         f"got {int(labels.min())} to {int(labels.max())}")  # fmt: skip
    return labels.long()
