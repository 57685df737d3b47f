"""Per-sample products of the Hessian with the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from sparsense.autodiff.differentiate import differentiate, nodes_between
from sparsense.autodiff.layers import Layer
from sparsense.autodiff.norms import sum_each
from sparsense.autodiff.weight_gradient import weight_gradient
from sparsense.graph.build import Builder


def hessian_gradient(
    op: Builder, *, of: ir.Value, layers: Sequence[Layer], seed: ir.Value
) -> list[tuple[ir.Value, ir.Value]]:
    """Per-sample H g of the weights of some layers, g = dL/dw and H = d2L/dw2 over all of them together.

    H g is the gradient of S = |g|^2 / 2. A layer uses its weight twice: forward, z = w x, and on the way back,
    dL/dx = w^T dL/dz. The second is linear in the same weight, so its share is that of a layer whose input is
    dS/d(dL/dx) and whose output has the gradient dL/dz.

    Args:
        op: Builder.
        of: The network's output.
        layers: Whose weights.
        seed: dL/d`of`; where L is not linear in the output, a value computed from it.

    Returns:
        For every layer H g as a batch of matrices `[N, R, S]`, and the weight `[R, S]` with the same rows and columns.
    """
    values = list(dict.fromkeys(value for layer in layers for value in (layer.output, layer.activation)))
    deltas = differentiate(op, of=of, wrt=values, seed=seed)
    gradients = [weight_gradient(op, layer, deltas[layer.output]) for layer in layers]
    total = op.Sum(*(_half_square(op, gradient) for gradient, _ in gradients))
    wanted = [layer.output for layer in layers] + [deltas[layer.activation] for layer in layers]
    reached = list(dict.fromkeys(value for value in wanted if nodes_between([value], total)))
    found = differentiate(op, of=total, wrt=reached)
    products = []
    for layer, (_, weight) in zip(layers, gradients, strict=True):
        forward = _share(op, layer, found.get(layer.output))
        back = deltas[layer.activation]
        backward = _share(op, _applied_to(op, layer, found[back]), deltas[layer.output]) if back in found else None
        parts = [part for part in (forward, backward) if part is not None]
        products.append((op.Sum(*parts), weight))
    return products


def _share(op: Builder, layer: Layer, delta: ir.Value | None) -> ir.Value | None:
    return None if delta is None else weight_gradient(op, layer, delta)[0]


def _applied_to(op: Builder, layer: Layer, value: ir.Value) -> Layer:
    """The layer over another input; its product is not used, so its node ends in no file."""
    operands = [value if x is layer.activation else x for x in layer.node.inputs[:2]]
    attributes = {name: attribute.value for name, attribute in layer.node.attributes.items()}
    (product,) = op.call(layer.node.op_type, *operands, **attributes)
    node = product.producer()
    assert node is not None
    return replace(layer, node=node, activation=value, output=product)


def _half_square(op: Builder, value: ir.Value) -> ir.Value:
    """|value|^2 / 2 of each sample, [N]."""
    return op.Mul(sum_each(op, op.Mul(value, value)), 0.5)
