"""Are the gradients in a graph the network's? Asked of the forward graph alone, by finite differences."""

from __future__ import annotations

import glob
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.autodiff import Layer, differentiate, weight_gradient, weighted_layers
from sparsense.autodiff.shapes import dims, ones_like
from sparsense.detector.double import CANNOT, Double
from sparsense.errors import ExportError
from sparsense.graph.forward import ForwardGraph
from sparsense.graph.run import Session

DIRECTIONS = 3
Array = NDArray[Any]
Evaluate = Callable[[ir.Model, Sequence[ir.Value], Array], list[Array]]
Chosen = str | Sequence[str] | int | None


class CannotEvaluateError(Exception):
    """The reference implementation lacks something that the graph needs."""


@dataclass(frozen=True)
class Way:
    """How a graph is evaluated for the comparison, and how well it can be known.

    Attributes:
        name: For the card.
        evaluate: A model, some of its values, an input -> arrays.
        step: Relative to each weight.
        tolerance: Of the root mean square of the derivatives.
        dtype: Of the weights.
    """

    name: str
    evaluate: Evaluate
    step: float
    tolerance: float
    dtype: type[np.floating[Any]]


def in_double(model: ir.Model, values: Sequence[ir.Value], inputs: Array) -> list[Array]:
    """By the reference implementation; CannotEvaluateError where it lacks something."""
    try:
        return Double(model, values)(inputs)
    except CANNOT as error:
        raise CannotEvaluateError(f"float64 failed: {type(error).__name__}: {error}"[:200]) from error


def _in_single(model: ir.Model, values: Sequence[ir.Value], inputs: Array) -> list[Array]:
    return [np.asarray(found, np.float64) for found in Session(model, values, threads=1, optimise=False)(inputs)]


# Differences in float64 are exact to about 1e-8 away from kinks. A step ten times as long crosses kinks of ReLUs in a
# network of usual size (3e-4 off).
DOUBLE = Way("finite differences in float64", in_double, 1e-7, 1e-4, np.float64)
# In float32 they are good to a percent or so: enough to find a wrong rule, not a wrong digit.
SINGLE = Way("finite differences in float32", _in_single, 1e-3, 5e-2, np.float32)


def check_gradients(
    network: ForwardGraph, inputs: Array, *, layers: Chosen = None, way: Way = DOUBLE, seed: int = 0
) -> float:
    """Compare weight sensitivities with central differences of the forward graph.

    For random signs m and random weights c of the outputs,
    sum_ij m_ij w_ij d(c f)/dw_ij  =  d/dt c f(w (1 + t m)) at t = 0, for all weighted layers together.

    Args:
        network: The forward graph, without head.
        inputs: A few inputs as the detector takes them, `[n, ...]`.
        layers: Which ones, as `weighted_layers` takes them; default: all.
        way: How it is evaluated.
        seed: Of the directions.

    Returns:
        The largest difference, relative to the root mean square of the derivatives.

    Raises:
        ExportError: It exceeds the tolerance; names the layer that is furthest off.
        CannotEvaluateError: An operator cannot be evaluated in this way.
    """
    random = np.random.default_rng(seed)
    chosen = weighted_layers(network, layers=layers)
    difference = partial(_difference, network, inputs, way)
    worst = max(difference(chosen, random) for _ in range(DIRECTIONS))
    if not worst <= way.tolerance:
        suspect = max(chosen, key=lambda layer: difference([layer], np.random.default_rng(seed)))
        raise ExportError(
            f"checking gradients: expected them within {way.tolerance:.0e} of finite differences of the forward "
            f"graph, found {worst:.1e}, most of it at layer {suspect.name!r} ({suspect.node.op_type}); restrict the "
            "head with layers=..., or use a head without gradients",
            worst=worst,
        )
    return worst


Direction = tuple[dict[str, Array], Array]
"""Signs of the weights, by layer, and weights of the outputs."""


def drawn(network: ForwardGraph, layers: Sequence[Layer], random: np.random.Generator) -> Direction:
    """Random signs and weights."""
    signs = {layer.name: random.choice([-1.0, 1.0], layer.weight.shape) for layer in layers}
    sizes = [size if isinstance(size, int) else 1 for size in dims(network.output)[1:]]
    return signs, random.standard_normal((1, *sizes)).astype(np.float32)


def _difference(
    network: ForwardGraph, inputs: Array, way: Way, layers: Sequence[Layer], random: np.random.Generator
) -> float:
    direction = drawn(network, layers, random)
    return distance(_sensitivity(network, inputs, direction, way), numeric(network, inputs, direction, way))


def distance(found: Array, expected: Array) -> float:
    """The largest difference, relative to the root mean square of what is expected."""
    return float(np.abs(found - expected).max() / max(np.sqrt(np.square(expected).mean()), np.finfo(np.float32).tiny))


def _sensitivity(network: ForwardGraph, inputs: Array, direction: Direction, way: Way) -> Array:
    """What the gradient nodes say, [n]."""
    (signs, mix), network = direction, network.copy()
    op = network.op
    layers = _named(network, signs)
    seed = op.Mul(ones_like(op, network.output), mix)
    deltas = differentiate(op, of=network.output, wrt=[layer.output for layer in layers], seed=seed)
    parts = []
    for layer in layers:
        signed = replace(layer, weight=(layer.weight * signs[layer.name]).astype(np.float32))
        gradient, arranged = weight_gradient(op, signed, deltas[layer.output])
        parts.append(op.ReduceSum(op.Mul(gradient, arranged), [1, 2], keepdims=0))
    total: Array = np.sum(way.evaluate(network.model, parts, inputs), axis=0)
    return total


def numeric(network: ForwardGraph, inputs: Array, direction: Direction, way: Way) -> Array:
    """The central difference, [n]."""
    ahead, behind = (_moved(network, inputs, direction, way, step) for step in (way.step, -way.step))
    return np.asarray((ahead - behind) / (2 * way.step))


def _moved(network: ForwardGraph, inputs: Array, direction: Direction, way: Way, step: float) -> Array:
    """The weighted sum c f(w (1 + t m)) of the outputs, [n]."""
    (signs, mix), network = direction, network.copy()
    for layer in _named(network, signs):
        moved = layer.weight.astype(np.float64) * (1 + step * signs[layer.name])
        _replace_weight(network, layer, moved.astype(way.dtype))
    (output,) = way.evaluate(network.model, [network.output], inputs)
    return np.asarray((output * mix).reshape(len(output), -1).sum(1))


def _named(network: ForwardGraph, names: Collection[str]) -> list[Layer]:
    """The same layers in a copy."""
    return weighted_layers(network, layers=[glob.escape(name) for name in names])


def _replace_weight(network: ForwardGraph, layer: Layer, weight: Array) -> None:
    value = ir.Value(name=f"moved.{layer.node.name}", const_value=ir.tensor(weight))
    value.shape, value.dtype = ir.Shape(weight.shape), ir.DataType.from_numpy(weight.dtype)
    network.model.graph.register_initializer(value)
    layer.constant.replace_all_uses_with(value)
