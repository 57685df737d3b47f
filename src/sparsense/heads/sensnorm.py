"""SensNorm: how far the sensitivities of one input are from those of the training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.autodiff import weighted_layers
from sparsense.errors import NotFittedError
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.checks import flag, one_of
from sparsense.heads.contributions import Contributions, names_of
from sparsense.heads.head import Array, Head, Stream, register
from sparsense.heads.loss import elasticity_seed, one_hot, predicted_class
from sparsense.heads.sensitivity import (
    check_order,
    check_structure,
    divided_by_gates,
    layer_distances,
    layer_norms,
    sensitivities,
)


@register
class SensNorm(Head):
    """Mean over layers of the distance between an input's weight elasticities and the training set's.

    s_l(x) = w_l * df_yhat/dw_l / f_yhat        elasticity of the predicted raw logit, signed, one input
    r_l    = w_l * mean(df_y/dw_l) / mean(f_y)  the same over the training set with its true labels
    score  = 1/L sum_l || r_l - s_l(x) ||_p

    The published form scores groups of inputs; this one scores each input alone (a group of one). Without labels the
    reference uses the predicted classes.

    Args:
        p: Order of the norm, >= 1 or inf; the prototype's is 5.
        reference: `train` subtracts the training set's elasticities; `none` takes the norm itself.
        signed: False takes absolute values of both before the difference.
        structure: `weight`, or `channel` for the elasticities of output gates (cheaper).
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
        layers: Sequence[str] | int | None = None,
    ) -> None:
        self.p, self.structure = check_order(p), check_structure(structure)
        self.reference = one_of("reference", reference, ("train", "none"))
        self.signed, self.layers = flag("signed", signed), layers
        self._references: dict[str, Array] = {}

    def prepare(self, network: ForwardGraph, stream: Stream) -> None:
        """Sum the training set's gradients and logits, in float64."""
        if self.reference == "none":
            return
        op, layers = network.op, weighted_layers(network, layers=self.layers)
        labels = ir.val("labels", ir.DataType.INT64, ["N"])
        use_labels = stream.has_labels
        if use_labels:
            network.model.graph.inputs.append(labels)
        truth = one_hot(op, labels, network.output) if use_labels else predicted_class(op, network.output)
        sums = [
            op.ReduceSum(s, [0], keepdims=0) for s in sensitivities(network, layers, truth, structure=self.structure)
        ]
        logit = op.ReduceSum(op.Mul(network.output, truth), keepdims=0)
        totals: list[Any] = [0.0] * (len(sums) + 1)
        for values in stream(network, [*sums, logit]):
            totals = [total + np.asarray(value, np.float64) for total, value in zip(totals, values, strict=True)]
        *gradients, logits = totals
        self._references = {layer.name: gradient / logits for layer, gradient in zip(layers, gradients, strict=True)}

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The distance to the reference, layer by layer: [N, L]."""
        layers, seed = weighted_layers(network, layers=self.layers), elasticity_seed(network)
        if self.reference == "none":
            return layer_norms(network, layers, seed, [self.p], structure=self.structure)
        references = [self._reference(layer.name) for layer in layers]
        return layer_distances(
            network, layers, seed, references, order=self.p, structure=self.structure, signed=self.signed
        )

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
        return divided_by_gates(network, layers, elasticity_seed(network), parts.value)

    def state(self) -> dict[str, Array]:
        """The reference of each layer, arranged as in the graph."""
        return {f"reference.{name}": value for name, value in self._references.items()}
