"""What can be attacked: the loss of a torch classifier, and the score of a detector through its own graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff import differentiate
from sparsense.data.preprocessing import Preprocessing
from sparsense.detector.fit import Scored
from sparsense.errors import InputError
from sparsense.graph.build import Builder
from sparsense.graph.run import Session, with_outputs
from sparsense.robustness.attack import Array, Slope

if TYPE_CHECKING:
    from sparsense.networks.network import Network


def classifier_slope(network: Network, labels: NDArray[Any]) -> Slope:
    """Cross entropy of the true labels: what an attack on a classifier makes large.

    Args:
        network: A classifier in evaluation mode.
        labels: `[N]`, of the inputs in their order.

    Returns:
        A slope for inputs in [0, 1] laid out as the network sees them, `[N, C, H, W]`.
    """
    import torch
    from torch.nn import functional

    if network.task != "classifier":
        raise InputError(f"attacking network {network.source!r}: expected a classifier, found a {network.task}")
    mean, std = _unit(network.preprocessing)
    wanted = torch.from_numpy(np.asarray(labels, np.int64))

    def slope(inputs: Array) -> tuple[Array, Array]:
        seen = torch.from_numpy(((inputs - mean) / std).astype(np.float32)).requires_grad_()
        losses = functional.cross_entropy(network.module(seen), wanted, reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), seen)
        return losses.detach().double().numpy(), gradient.double().numpy() / std

    return slope


def score_slope(scored: Scored, preprocessing: Preprocessing, *, sign: int = -1) -> Slope:
    """The detector's own score, for an attacker who knows it: with sign -1 an anomaly tries to look usual.

    The gradient is made of the nodes of the graph, as a detector is; a score that is made of gradients itself is
    differentiated again.

    Args:
        scored: A network with a fitted head.
        preprocessing: Of the network.
        sign: -1 makes the score small, +1 large (false alarms).

    Returns:
        A slope for inputs in [0, 1] laid out as the network sees them.

    Raises:
        UnsupportedOperatorError: The score has steps without a gradient.
    """
    model, probe, score = _behind_preprocessing(scored)
    gradient = differentiate(Builder(model.graph), of=score, wrt=[probe])[probe]
    asked = with_outputs(model, [score, gradient])
    asked.graph.inputs[:] = asked.graph.inputs[:1]  # nothing is left of the preprocessing that read the other one
    session = Session(ir.to_proto(asked).SerializeToString(), threads=1)
    mean, std = _unit(preprocessing)

    def slope(inputs: Array) -> tuple[Array, Array]:
        found, raw = session(((inputs - mean) / std).astype(np.float32))
        return sign * found.astype(np.float64), sign * raw.astype(np.float64) / std

    return slope


def _behind_preprocessing(scored: Scored) -> tuple[ir.Model, ir.Value, ir.Value]:
    """A copy whose first input is the network's own, and its score."""
    network = scored.network.copy()
    values = {value.name: value for node in network.model.graph for value in node.outputs}
    probe = ir.val("attacked", network.target.dtype, network.target.shape)
    network.target.replace_all_uses_with(probe)
    network.model.graph.inputs.insert(0, probe)
    return network.model, probe, values[scored.score.name]


def _unit(preprocessing: Preprocessing) -> tuple[Array, Array]:
    """Mean and std that take inputs in [0, 1] to what the network sees."""
    shape = (1, -1) if preprocessing.layout == "ND" else (1, -1, 1, 1)
    mean, std = (np.asarray(v, np.float64).reshape(shape) for v in (preprocessing.mean, preprocessing.std))
    return mean, std
