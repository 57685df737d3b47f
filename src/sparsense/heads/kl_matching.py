"""Divergence from the predictions that a network usually makes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph
from sparsense.heads.classes import ClassMoments, finite
from sparsense.heads.head import Array, Head, register
from sparsense.heads.logits import competing

LEAST = 1e-30  # a class that was never likely keeps a finite logarithm


@register
class KLMatching(Head):
    """Kullback-Leibler divergence of the softmax from the nearest usual one.

    score = min_k KL(p || d_k),  d_k = mean softmax over the inputs predicted as k

    Needs no labels: templates belong to predicted classes. Classes that were never predicted have none.

    Reference:
        Hendrycks et al., "Scaling out-of-distribution detection for real-world settings", ICML 2022, arXiv:1911.11132.
    """

    name = "kl_matching"
    needs_logits = True

    def observe(self, network: ForwardGraph) -> ir.Value:
        """Logarithms of the probabilities."""
        return network.op.LogSoftmax(competing(network.output), axis=1)

    def fit(self, observations: Iterable[Array], labels: Array | None = None) -> Self:  # noqa: ARG002
        """Learn the mean softmax of each predicted class."""
        rows = (finite(batch) for batch in observations)
        self.templates_ = ClassMoments.of((np.exp(batch), batch.argmax(1)) for batch in rows).means
        return self

    def score(self, op: Builder, observed: ir.Value) -> ir.Value:
        """The nearest template by sums of p log d_k, then its divergence class by class, where little cancels."""
        p = op.Exp(observed)
        log_templates = np.log(np.maximum(self.learnt("templates"), LEAST)).astype(np.float32)
        closest = op.ArgMax(op.MatMul(p, np.ascontiguousarray(log_templates.T)), axis=1, keepdims=0)
        ratio = op.Sub(observed, op.Gather(log_templates, closest, axis=0))
        return op.ReduceSum(op.Mul(p, ratio), [1], keepdims=0)
