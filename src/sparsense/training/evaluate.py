"""What a network answers, and how often it is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsense.data import Dataset
from sparsense.errors import InputError
from sparsense.networks.network import Network
from sparsense.training.engine import device_of


@torch.no_grad()
def predict(network: Network, inputs: NDArray[Any], *, batch_size: int = 256) -> NDArray[np.float32]:
    """The outputs of a network in evaluation mode, in bounded memory.

    Args:
        network: Not changed.
        inputs: As the user has them, before preprocessing.
        batch_size: How many at a time.

    Returns:
        Logits `[N, K]`, or reconstructions in the network's own unit.
    """
    network.module.eval()
    parts = (inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size))
    device, apply = device_of(network.module), network.preprocessing.apply
    outputs = [network.module(torch.from_numpy(apply(part)).to(device)).cpu().numpy() for part in parts]
    return np.concatenate(outputs)


def accuracy(network: Network, dataset: Dataset, *, batch_size: int = 256) -> float:
    """The share of samples whose largest logit is their label.

    Returns:
        Between 0 and 1.

    Raises:
        InputError: The data set has no labels.
    """
    if dataset.labels is None:
        raise InputError(f"measuring accuracy on {dataset.name!r}: it has no labels")
    inputs = network.preprocessing.arrange(dataset.inputs)
    found = predict(network, inputs, batch_size=batch_size).argmax(1)
    return float((found == dataset.labels).mean())
