"""What an oracle is, and how one is asked."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsense.data.columns import Column
from sparsense.detector import Scored
from sparsense.detector.groups import single_inputs
from sparsense.networks.network import Network
from sparsense.parity import Parity, disturb, settled
from sparsense.registry import Registry

Oracle = Callable[[Scored, nn.Module, Tensor], NDArray[np.float64]]
"""`(fitted head, float64 module in eval mode, float64 inputs [N, ...]) -> scores [N]`, or those of groups of inputs."""

NAME = "torch per-sample autograd, float64"

ORACLES: Registry[Oracle] = Registry("oracle")


def oracle_parity(
    scored: Scored, network: Network, inputs: NDArray[Any], *, tolerance: float, count: int = 32
) -> Parity:
    """What a file is compared with: the oracle's scores on drawn inputs that are not within rounding of a kink.

    Args:
        scored: The fitted head and the graph it belongs to.
        network: The torch network that the graph was made from.
        inputs: Raw inputs, as the detector takes them.
        tolerance: Of the comparison.
        count: At most so many inputs are kept.
    """

    def ask(asked: NDArray[Any], seed: int) -> NDArray[np.float64]:
        return oracle_scores(scored, network, asked, disturbance=seed)

    scores = oracle_scores(scored, network, inputs)
    found = [scored.scores(inputs, batch_size=size) for size in (1, len(inputs))]
    return settled(inputs, scores, found, ask, oracle=NAME, tolerance=tolerance, count=count)


def oracle_scores(
    scored: Scored, network: Network, inputs: NDArray[Any], *, disturbance: int | None = None
) -> NDArray[np.float64]:
    """A head's scores, computed by torch and numpy in float64.

    Args:
        scored: The fitted head and the graph it belongs to.
        network: The torch network that the graph was made from.
        inputs: Raw inputs, as the detector takes them.
        disturbance: Seed of a disturbance of all weights by about a rounding error; None leaves them.
    """
    module = deepcopy(network.module).double().eval()
    if disturbance is not None:
        _disturb(module, disturbance)
    group = scored.network.group
    found = np.asarray(ORACLES[scored.head.name](scored, module, _prepare(network, single_inputs(inputs, group))))
    return found.astype(np.float64) if len(found) == len(inputs) else found.reshape(-1, group).mean(1)


@torch.no_grad()
def _disturb(module: nn.Module, seed: int) -> None:
    random = np.random.default_rng(seed)
    for parameter in module.parameters():
        parameter.copy_(torch.from_numpy(disturb(parameter.numpy(), random)))


def _prepare(network: Network, inputs: NDArray[Any]) -> Tensor:
    """Preprocessing written out once more, in float64."""
    description = network.preprocessing
    if description.columns:
        inputs = np.concatenate([_features(column, inputs[:, i]) for i, column in enumerate(description.columns)], 1)
    tensor = torch.as_tensor(inputs, dtype=torch.float64)
    if description.layout == "NHWC":
        tensor = tensor.movedim(-1, 1)
    axes = (1, -1) if description.layout == "ND" else (1, -1, 1, 1)
    mean, std = (
        torch.tensor(values, dtype=torch.float64).reshape(axes) for values in (description.mean, description.std)
    )
    return (tensor * description.scale - mean) / std


def _features(column: Column, values: NDArray[Any]) -> NDArray[np.float64]:
    """What one column of a table becomes, value by value."""
    filled = [column.fill if np.isnan(value) else float(value) for value in values]
    if column.levels is None:
        return np.array([[(value - column.mean) / column.std] for value in filled])
    return np.array([[float(value == place) for place in range(len(column.levels))] for value in filled])
