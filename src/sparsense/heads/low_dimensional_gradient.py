"""Weight gradients in a few directions that matter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sparsense.autodiff import weighted_layers
from sparsense.autodiff.shapes import dims
from sparsense.errors import InputError, NotFittedError
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.head import Array, Stream, register
from sparsense.heads.knn import NearestNeighbours
from sparsense.heads.logits import competing
from sparsense.heads.loss import predicted_class
from sparsense.heads.neighbours import unit
from sparsense.heads.sensitivity import gradients

MAXIMUM = 2**27
"""Numbers of all directions, half a gigabyte: a model file holds two gigabytes."""


@register
class LowDimensionalGradient(NearestNeighbours):
    """Squared distance of the direction of the weight gradient to its k-th nearest neighbour, in few dimensions.

    z(x)  = V^T vec(d(log sum_k exp f_k) / dw), to length 1;  V = an orthonormal basis of the classes' mean gradients
    score = ||z - z_(k)||^2,  z_(k) the k-th nearest of a bank of in-distribution gradients

    The directions are stored in the file: the number of weights of the layers times the number of classes.

    Args:
        layers: Name patterns, operator types, or the number of last layers; default: the last 3.
        k: Which neighbour.
        bank: Rows to keep; more fitting data than that is sampled.
        seed: Of the sample.

    Reference:
        Wu et al., "Low-dimensional gradient helps out-of-distribution detection", TPAMI 2024, arXiv:2310.17163; with
        their average-gradient directions, classes as predicted, and nearest neighbours without their linear probe.
    """

    name = "low_dimensional_gradient"
    needs_logits = True
    differentiates = True

    def __init__(self, *, layers: Sequence[str] | int | None = 3, k: int = 50, bank: int = 5000, seed: int = 0) -> None:
        super().__init__(k=k, bank=bank, seed=seed)
        self.layers = layers
        self._directions: Array | None = None

    def prepare(self, network: ForwardGraph, stream: Stream) -> None:
        """Find the directions: mean gradients of each predicted class, made orthonormal."""
        op = network.op
        self._check_size(network)
        gradient = self._gradient(network)
        sums = op.MatMul(op.Transpose(predicted_class(op, network.output), perm=[1, 0]), gradient)
        total = np.zeros(())
        for (batch,) in stream(network, [sums]):
            total = total + np.asarray(batch, np.float64)
        self._directions = _orthonormal(total)

    def _check_size(self, network: ForwardGraph) -> None:
        """Refuse directions that would fill memory and file."""
        layers, classes = weighted_layers(network, layers=self.layers), dims(network.output)[1]
        weights = sum(layer.weight.size for layer in layers)
        if weights * classes > MAXIMUM:
            raise InputError(
                f"fitting head {self.name!r}: expected at most {MAXIMUM:,} numbers in its directions, found "
                f"{weights:,} weights in {len(layers)} layers times {classes} classes; choose fewer with layers=..."
            )

    def _gradient(self, network: ForwardGraph) -> ir.Value:
        """All weight gradients of a sample in one row, [N, weights]."""
        op, layers = network.op, weighted_layers(network, layers=self.layers)
        seed = op.Softmax(competing(network.output), axis=1)  # the gradient of log-sum-exp
        rows = [op.Flatten(gradient, axis=1) for gradient in gradients(network, layers, seed)]
        return op.Concat(*rows, axis=1) if len(rows) > 1 else rows[0]

    def observe(self, network: ForwardGraph) -> ir.Value:
        """The projected gradient's direction, [N, directions]."""
        if self._directions is None:
            raise NotFittedError(
                f"head {self.name!r} has no directions; call prepare(network, stream) with in-distribution data first"
            )
        return unit(network.op, network.op.MatMul(self._gradient(network), self._directions.astype(np.float32)))

    def state(self) -> dict[str, Array]:
        """Statistics and directions."""
        return super().state() | ({} if self._directions is None else {"directions": self._directions})


def _orthonormal(rows: Array) -> Array:
    """An orthonormal basis [D, k] of what rows [K, D] span, rows of zeros aside."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.any():
        raise InputError("finding the directions of gradients: all of them are zero; is the network trained?")
    _, values, vectors = np.linalg.svd(rows[lengths[:, 0] > 0] / lengths[lengths[:, 0] > 0], full_matrices=False)
    return np.ascontiguousarray(vectors[values > 1e-6 * values[0]].T)
