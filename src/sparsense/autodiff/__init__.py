"""Reverse-mode differentiation of ONNX graphs into ordinary ONNX operators, and per-sample weight sensitivities."""

from sparsense.autodiff.arranged import arranged
from sparsense.autodiff.differentiate import differentiate
from sparsense.autodiff.gates import gate_sensitivities, gate_sensitivity
from sparsense.autodiff.layers import Layer, weighted_layers
from sparsense.autodiff.weight_gradient import weight_gradient

__all__ = [
    "Layer",
    "arranged",
    "differentiate",
    "gate_sensitivities",
    "gate_sensitivity",
    "weight_gradient",
    "weighted_layers",
]
