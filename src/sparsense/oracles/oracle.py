"""What an oracle is, and how one is asked."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsense.detector import Scored
from sparsense.networks.network import Network
from sparsense.registry import Registry

Oracle = Callable[[Scored, nn.Module, Tensor], NDArray[np.float64]]
"""`(fitted head, float64 module in eval mode, float64 inputs [N, ...]) -> scores [N]`."""

ORACLES: Registry[Oracle] = Registry("oracle")


def oracle_scores(scored: Scored, network: Network, inputs: NDArray[Any]) -> NDArray[np.float64]:
    """A head's scores, computed by torch and numpy in float64.

    Args:
        scored: The fitted head and the graph it belongs to.
        network: The torch network that the graph was made from.
        inputs: Raw inputs, as the detector takes them.
    """
    module = deepcopy(network.module).double().eval()
    prepared = _prepare(network, inputs)
    return np.asarray(ORACLES[scored.head.name](scored, module, prepared), np.float64)


def _prepare(network: Network, inputs: NDArray[Any]) -> Tensor:
    """Preprocessing written out once more, in float64."""
    description = network.preprocessing
    tensor = torch.as_tensor(inputs, dtype=torch.float64)
    if description.layout == "NHWC":
        tensor = tensor.movedim(-1, 1)
    axes = (1, -1) if description.layout == "ND" else (1, -1, 1, 1)
    mean, std = (
        torch.tensor(values, dtype=torch.float64).reshape(axes) for values in (description.mean, description.std)
    )
    return (tensor * description.scale - mean) / std
