"""Are the gradients in a graph the network's? Asked of the forward graph alone, by finite differences in float64."""

from __future__ import annotations

import glob
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff import Layer, differentiate, weight_gradient, weighted_layers
from sparsense.autodiff.shapes import dims, ones_like
from sparsense.detector.double import Double
from sparsense.errors import ExportError
from sparsense.graph.forward import ForwardGraph

TOLERANCE = 1e-4  # of the root mean square; differences in float64 are exact to about 1e-8 away from kinks
STEP = 1e-7  # relative to each weight: ten times as much crosses kinks of ReLUs in a network of usual size (3e-4 off)
Array = NDArray[Any]
Chosen = str | Sequence[str] | int | None


def check_gradients(
    network: ForwardGraph, inputs: Array, *, layers: Chosen = None, directions: int = 3, seed: int = 0
) -> float:
    """Compare weight sensitivities with central differences of the forward graph.

    For random signs m and random weights c of the outputs,
    sum_ij m_ij w_ij d(c f)/dw_ij  =  d/dt c f(w (1 + t m)) at t = 0, for all weighted layers together.

    Args:
        network: The forward graph, without head.
        inputs: A few inputs as the detector takes them, `[n, ...]`.
        layers: Which ones, as `weighted_layers` takes them; default: all.
        directions: How many random directions.
        seed: Of the directions.

    Returns:
        The largest difference, relative to the root mean square of the derivatives.

    Raises:
        ExportError: It exceeds `TOLERANCE`; names the layer that is furthest off.
    """
    random = np.random.default_rng(seed)
    chosen = weighted_layers(network, layers=layers)
    worst = max(_difference(network, inputs, chosen, random) for _ in range(directions))
    if not worst <= TOLERANCE:
        suspect = max(chosen, key=lambda layer: _difference(network, inputs, [layer], np.random.default_rng(seed)))
        raise ExportError(
            f"checking gradients: expected them within {TOLERANCE:.0e} of finite differences of the forward "
            f"graph, found {worst:.1e}, most of it at layer {suspect.name!r} ({suspect.node.op_type}); restrict the "
            "head with layers=..., or use a head without gradients",
            worst=worst,
        )
    return worst


def _difference(network: ForwardGraph, inputs: Array, layers: Sequence[Layer], random: np.random.Generator) -> float:
    signs = {layer.name: random.choice([-1.0, 1.0], layer.weight.shape) for layer in layers}
    sizes = [size if isinstance(size, int) else 1 for size in dims(network.output)[1:]]
    mix = random.standard_normal((1, *sizes)).astype(np.float32)
    analytic = _sensitivity(network, inputs, signs, mix)
    ahead, behind = (_moved(network, inputs, signs, mix, step) for step in (STEP, -STEP))
    numeric = (ahead - behind) / (2 * STEP)
    return float(np.abs(analytic - numeric).max() / np.sqrt(np.square(numeric).mean()))


def _sensitivity(network: ForwardGraph, inputs: Array, signs: dict[str, Array], mix: Array) -> Array:
    """What the gradient nodes say, [n]."""
    network = network.copy()
    op = network.op
    layers = _named(network, signs)
    seed = op.Mul(ones_like(op, network.output), mix)
    deltas = differentiate(op, of=network.output, wrt=[layer.output for layer in layers], seed=seed)
    parts = []
    for layer in layers:
        signed = replace(layer, weight=(layer.weight * signs[layer.name]).astype(np.float32))
        gradient, arranged = weight_gradient(op, signed, deltas[layer.output])
        parts.append(op.ReduceSum(op.Mul(gradient, arranged), [1, 2], keepdims=0))
    total: Array = np.sum(Double(network.model, parts)(inputs), axis=0)
    return total


def _moved(network: ForwardGraph, inputs: Array, signs: dict[str, Array], mix: Array, step: float) -> Array:
    """The weighted sum c f(w (1 + t m)) of the outputs, [n]."""
    network = network.copy()
    for layer in _named(network, signs):
        _replace_weight(network, layer, layer.weight.astype(np.float64) * (1 + step * signs[layer.name]))
    (output,) = Double(network.model, [network.output])(inputs)
    return np.asarray((output * mix).reshape(len(output), -1).sum(1))


def _named(network: ForwardGraph, names: Collection[str]) -> list[Layer]:
    """The same layers in a copy."""
    return weighted_layers(network, layers=[glob.escape(name) for name in names])


def _replace_weight(network: ForwardGraph, layer: Layer, weight: NDArray[np.float64]) -> None:
    value = ir.Value(name=f"moved.{layer.node.name}", const_value=ir.tensor(weight))
    value.shape, value.dtype = ir.Shape(weight.shape), ir.DataType.DOUBLE
    network.model.graph.register_initializer(value)
    layer.constant.replace_all_uses_with(value)
