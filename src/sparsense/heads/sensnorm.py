"""SensNorm: how far the sensitivities of one input are from those of the training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.autodiff import Layer, weighted_layers
from sparsense.autodiff.norms import p_norm, power_scale
from sparsense.autodiff.second_order import hessian_gradient
from sparsense.autodiff.shapes import rank
from sparsense.errors import NotFittedError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.graph.grouped import mean_of_groups
from sparsense.heads.checks import flag, one_of
from sparsense.heads.contributions import Contributions, names_of
from sparsense.heads.head import Array, Head, Stream, register
from sparsense.heads.loss import EPSILON, LOSSES, one_hot, predicted_class, relative_seed
from sparsense.heads.sensitivity import (
    check_order,
    check_structure,
    concatenated,
    divided_by_gates,
    layer_distances,
    layer_norms,
    sensitivities,
)


@register
class SensNorm(Head):
    """Mean over layers of the distance between an input's weight sensitivities and the training set's.

    s_l(x) = w_l * dL/dw_l / L              elasticity of the loss, signed, one input; L = f_yhat or -log p_yhat
    r_l    = w_l * mean(dL/dw_l) / mean(L)  the same over the training set with its true labels
    score  = 1/L sum_l || r_l - s_l(x) ||_p
    CroP:    s_l(x) = w_l * (H g)_l of log L,  r_l = their mean

    The published form scores groups of inputs: gradients and losses are averaged over a group before they are divided,
    and so is what `group` attaches; the default, a group of one, scores each input alone. Without labels the reference
    uses the predicted classes.

    Args:
        p: Order of the norm, >= 1 or inf; the prototype's is 5.
        reference: `train` subtracts the training set's sensitivities; `none` takes the norm itself.
        signed: False takes absolute values of both before the difference.
        structure: `weight`, or `channel` for the elasticities of output gates (cheaper).
        loss: `logit`, the prototype's, or `cross_entropy` with the predicted class.
        sensitivity: `elasticity`, or `crop`: what a relative change of a weight does to the squared gradient norm, by
            second derivatives of the weights.
        layers: Name patterns, operator types, or the number of last layers; default: all weighted layers.

    Reference:
        Ayle et al., "On the robustness and anomaly detection of sparse neural networks", 2022, arXiv:2207.04227; the
        formula follows the first author's public prototype.
    """

    name = "sensnorm"
    differentiates = True

    def __init__(
        self,
        *,
        p: float = 5.0,
        reference: str = "train",
        signed: bool = True,
        structure: str = "weight",
        loss: str = "logit",
        sensitivity: str = "elasticity",
        layers: Sequence[str] | int | None = None,
    ) -> None:
        self.p, self.structure = check_order(p), check_structure(structure)
        self.reference = one_of("reference", reference, ("train", "none"))
        self.signed, self.layers = flag("signed", signed), layers
        self.loss = one_of("loss", loss, LOSSES)
        self.needs_logits = loss != "logit"
        self.sensitivity = one_of("sensitivity", sensitivity, ("elasticity", "crop"))
        if self.sensitivity == "crop" and self.structure == "channel":
            raise ValueError("sensitivity 'crop' is one of weights: structure must be 'weight'; got 'channel'")
        self._references: dict[str, Array] = {}

    def prepare(self, network: ForwardGraph, stream: Stream) -> None:
        """Sum the training set's gradients and losses, in float64."""
        if self.reference == "none":
            return
        layers = weighted_layers(network, layers=self.layers)
        values, loss = self._of_truth(network, layers, self._truth(network, stream))
        sums = [network.op.ReduceSum(value, [0], keepdims=0) for value in values]
        totals: list[Any] = [0.0] * (len(sums) + 1)
        for batch in stream(network, [*sums, network.op.ReduceSum(loss, keepdims=0)]):
            totals = [total + np.asarray(value, np.float64) for total, value in zip(totals, batch, strict=True)]
        *gradients, losses = totals
        self._references = {layer.name: gradient / losses for layer, gradient in zip(layers, gradients, strict=True)}

    def _truth(self, network: ForwardGraph, stream: Stream) -> ir.Value:
        """The labels, or the predicted classes where there are none, as ones and zeros [N, K]."""
        if not stream.has_labels:
            return predicted_class(network.op, network.output)
        labels = ir.val("labels", ir.DataType.INT64, ["N"])
        network.model.graph.inputs.append(labels)
        return one_hot(network.op, labels, network.output)

    def _of_truth(
        self, network: ForwardGraph, layers: Sequence[Layer], truth: ir.Value
    ) -> tuple[list[ir.Value], ir.Value]:
        """What is summed over the training set: sensitivities [N, ...], and what their sum is divided by, [N]."""
        op = network.op
        if self.sensitivity == "crop":
            return self._curvatures(network, layers), op.ReduceSum(truth, [1], keepdims=0)  # ones: a mean
        if self.loss == "logit":
            seed, terms = truth, op.Mul(network.output, truth)
        else:
            seed = op.Sub(op.Softmax(network.output, axis=1), truth)
            terms = op.Neg(op.Mul(op.LogSoftmax(network.output, axis=1), truth))
        loss = op.ReduceSum(terms, [1], keepdims=0)
        return sensitivities(network, layers, seed, structure=self.structure), loss

    def _curvatures(self, network: ForwardGraph, layers: Sequence[Layer]) -> list[ir.Value]:
        """W * (H g) of every layer, [N, R, S]."""
        seed = relative_seed(network, self.loss)
        products = hessian_gradient(network.op, of=network.output, layers=layers, seed=seed)
        return [network.op.Mul(product, weight) for product, weight in products]

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The distance to the reference, layer by layer: [N, L]."""
        layers = weighted_layers(network, layers=self.layers)
        if self.sensitivity == "crop":
            return self._curved(network, layers)
        seed = relative_seed(network, self.loss)
        if self.reference == "none":
            return layer_norms(network, layers, seed, [self.p], structure=self.structure)
        references = [self._reference(layer.name) for layer in layers]
        return layer_distances(
            network, layers, seed, references, order=self.p, structure=self.structure, signed=self.signed
        )

    def observe_groups(self, network: ForwardGraph, size: int) -> ir.Value:
        """The distance of w * mean(dL/dw) / mean(L) of a group to the reference, layer by layer: [N / size, L]."""
        op, layers = network.op, weighted_layers(network, layers=self.layers)
        values, loss = self._of_truth(network, layers, predicted_class(op, network.output))
        mean = op.Add(mean_of_groups(op, loss, size), -EPSILON if self.loss == "logit" else EPSILON)
        shares = [op.Div(mean_of_groups(op, value, size), _beside(op, mean, value)) for value in values]
        return self._distances(network.op, layers, shares)

    def _curved(self, network: ForwardGraph, layers: Sequence[Layer]) -> ir.Value:
        """The distance of the curvatures, layer by layer: [N, L]."""
        return self._distances(network.op, layers, self._curvatures(network, layers))

    def _distances(self, op: Builder, layers: Sequence[Layer], values: Sequence[ir.Value]) -> ir.Value:
        """Norms of what sensitivities [N, ...] differ from the reference, layer by layer: [N, L]."""
        norms = []
        for layer, value in zip(layers, values, strict=True):
            away = value if self.signed else op.Abs(value)
            if self.reference == "train":
                fixed = self._reference(layer.name)
                away = op.Sub(away, (fixed if self.signed else np.abs(fixed)).astype(np.float32))
            scale = power_scale(self.p, layer.weight.size)
            norms.append(op.Unsqueeze(p_norm(op, [away], self.p, scale=scale), [1]))
        return concatenated(op, norms)

    def _reference(self, layer: str) -> Array:
        if layer not in self._references:
            raise NotFittedError(
                f"head {self.name!r} has no reference for layer {layer!r}; call prepare(network, stream) "
                "with in-distribution data first"
            )
        return self._references[layer]

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """Their mean."""
        return op.ReduceMean(observed, [1], keepdims=0)

    def explain(self, network: ForwardGraph, observed: ir.Value) -> Contributions:
        """What every layer adds to the mean."""
        names = names_of(weighted_layers(network, layers=self.layers))
        return Contributions("layers", names, network.op.Mul(observed, 1 / len(names)))

    def divide(self, network: ForwardGraph, observed: ir.Value, into: str) -> Contributions | None:
        """By channels: each layer's part divided by the sensitivities of its channels' gates."""
        parts = self.explain(network, observed)
        if into != "channels":
            return parts
        layers = weighted_layers(network, layers=self.layers)
        return divided_by_gates(network, layers, relative_seed(network, self.loss), parts.value)

    def state(self) -> dict[str, Array]:
        """The reference of each layer, arranged as in the graph."""
        return {f"reference.{name}": value for name, value in self._references.items()}


def _beside(op: Builder, numbers: ir.Value, value: ir.Value) -> ir.Value:
    """One number per sample, with as many axes as the value has."""
    return op.Unsqueeze(numbers, list(range(1, rank(value))))
