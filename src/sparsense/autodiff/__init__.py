"""Reverse-mode differentiation of ONNX graphs into ordinary ONNX operators, and per-sample weight sensitivities."""

from sparsense.autodiff.differentiate import differentiate
from sparsense.autodiff.per_sample import Layer, gate_sensitivity, weight_gradient, weighted_layers

__all__ = ["Layer", "differentiate", "gate_sensitivity", "weight_gradient", "weighted_layers"]
