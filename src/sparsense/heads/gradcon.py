"""GradCon: do the decoder's gradients point where in-distribution ones do?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.autodiff import Layer, arranged, weighted_layers
from sparsense.autodiff.norms import sum_each
from sparsense.errors import GraphError, NotFittedError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.bottleneck import decoder_layers, find_code
from sparsense.heads.checks import one_of, within
from sparsense.heads.contributions import Contributions
from sparsense.heads.head import Array, Head, Stream, register
from sparsense.heads.reconstruction_error import error_gradient, mean_error
from sparsense.heads.sensitivity import concatenated, gradients

TINY = 1e-20  # of a squared length: a perfect reconstruction has no gradient


@register
class GradientConstraint(Head):
    """Reconstruction error, less so where its gradient is aligned with the usual one.

    L     = mean (x - x')^2,  g_l = dL/dw_l for the layers of the decoder, G_l = their mean
    score = L - beta * mean over layers of cos(g_l, G_l)

    Args:
        beta: Weight of the alignment, in [0, 1e6]; 0.12 is published.
        reference: What G is the mean of. `fitting`: gradients of the fitting data, for any autoencoder. `training`: all
            steps of a training by the objective `gradcon`, as published; they are in the network's checkpoint.
        layers: Name patterns, operator types, or the number of last layers; default: all behind the narrowest value.

    Reference:
        Kwon et al., "Backpropagated gradient representations for anomaly detection", ECCV 2020, arXiv:2007.09507.
    """

    name = "gradcon"
    task = "reconstruction"
    differentiates = True

    def __init__(
        self, *, beta: float = 0.12, reference: str = "fitting", layers: Sequence[str] | int | None = None
    ) -> None:
        self.beta, self.layers = within("beta", beta, 0, 1e6), layers
        self.reference = one_of("reference", reference, ("fitting", "training"))
        self._references: dict[str, Array] = {}

    def prepare(self, network: ForwardGraph, stream: Stream) -> None:
        """Take the directions that training has left, or those of the fitting data."""
        layers = self._chosen(network)
        totals = self._summed(network, layers, stream) if self.reference == "fitting" else _trained(network, layers)
        lengths = [max(float(np.linalg.norm(total)), 1e-300) for total in totals]
        self._references = {
            layer.name: total / length for layer, total, length in zip(layers, totals, lengths, strict=True)
        }

    def _summed(self, network: ForwardGraph, layers: Sequence[Layer], stream: Stream) -> list[Array]:
        """The gradients of all inputs, summed in float64."""
        op = network.op
        sums = [op.ReduceSum(g, [0], keepdims=0) for g in gradients(network, layers, error_gradient(network))]
        totals: list[Any] = [0.0] * len(sums)
        for values in stream(network, sums):
            totals = [total + np.asarray(value, np.float64) for total, value in zip(totals, values, strict=True)]
        return totals

    def _chosen(self, network: ForwardGraph) -> list[Layer]:
        if self.layers is not None:
            return weighted_layers(network, layers=self.layers)
        return decoder_layers(network, find_code(network))

    def observe(self, network: ForwardGraph) -> ir.Value:
        """Error, then cosines: [N, 1 + L]."""
        op, layers = network.op, self._chosen(network)
        found = gradients(network, layers, error_gradient(network))
        cosines = [
            _cosine(op, gradient, self._reference(layer.name)) for layer, gradient in zip(layers, found, strict=True)
        ]
        return concatenated(op, [op.Unsqueeze(mean_error(network, squared=True), [1]), *cosines])

    def _reference(self, layer: str) -> Array:
        if layer not in self._references:
            raise NotFittedError(
                f"head {self.name!r} has no mean gradient for layer {layer!r}; call prepare(network, stream) with "
                "in-distribution data first"
            )
        return self._references[layer].astype(np.float32)

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Error less alignment."""
        error = op.Squeeze(op.Slice(observed, [0], [1], [1]), [1])
        alignment = op.ReduceMean(op.Slice(observed, [1], [2**31 - 1], [1]), [1], keepdims=0)
        return op.Sub(error, op.Mul(alignment, self.beta))

    def explain(self, network: ForwardGraph, observed: ir.Value) -> Contributions:
        """The error, and what the alignment of every layer takes away from it."""
        names = [layer.name for layer in self._chosen(network)]
        weights = np.array([1.0, *[-self.beta / len(names)] * len(names)], np.float32)
        return Contributions("terms", ["error", *names], network.op.Mul(observed, weights))

    def state(self) -> dict[str, Array]:
        """The direction of the mean gradient of each layer, arranged as in the graph."""
        return {f"reference.{name}": value for name, value in self._references.items()}


def _trained(network: ForwardGraph, layers: Sequence[Layer]) -> list[Array]:
    """The mean gradients of the training, arranged as the graph's own gradients are.

    Raises:
        GraphError: There are none for a layer, or they are of another shape.
    """
    found = []
    for layer in layers:
        mean = network.remembered.get(f"{layer.name}.weight")
        turned = layer.node.op_type == "MatMul" or (
            layer.node.op_type == "Gemm" and not layer.node.attributes.get_int("transB", 0)
        )
        mean = mean.T if mean is not None and turned else mean  # torch keeps [output, input]
        if mean is None or mean.shape != layer.weight.shape:
            has = "there is none" if mean is None else f"that of the training is of {list(mean.shape)}"
            raise GraphError(
                f"head 'gradcon' with reference 'training': expected a mean gradient of {list(layer.weight.shape)} for "
                f"layer {layer.name!r}, and {has}; train (after pruning: fine-tune) with the objective gradcon, or use "
                "reference: fitting"
            )
        found.append(np.asarray(mean))
    return [array.astype(np.float64) for array in arranged(network, layers, found)]


def _cosine(op: Builder, gradient: ir.Value, reference: Array) -> ir.Value:
    """With a direction [R, S] of length 1: [N, R, S] -> [N, 1]."""
    inner, square = sum_each(op, op.Mul(gradient, reference)), sum_each(op, op.Mul(gradient, gradient))
    return op.Unsqueeze(op.Div(inner, op.Sqrt(op.Max(square, TINY))), [1])
