"""The quantity whose sensitivity a head records, as the gradient that starts the walk back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.shapes import dims
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph

EPSILON = 1e-8  # keeps the division by a vanishing logit finite, as in the published prototype


def one_hot(op: Builder, classes: ir.Value, like: ir.Value) -> ir.Value:
    """Indices [N] -> rows of zeros with a one, shaped like logits [N, K]."""
    classes_count = dims(like)[1]
    depth: Any = (
        np.asarray(classes_count, np.int64)
        if isinstance(classes_count, int)
        else op.Squeeze(op.Shape(like, start=1), [0])
    )
    return op.OneHot(classes, depth, np.asarray([0, 1], np.float32), axis=1)


def predicted_class(op: Builder, logits: ir.Value) -> ir.Value:
    """One-hot of the largest logit (the first of equal ones), [N, K]."""
    return one_hot(op, op.ArgMax(logits, axis=1, keepdims=0), logits)


def elasticity_seed(network: ForwardGraph) -> ir.Value:
    """Gradient of log f_yhat with respect to the logits: one-hot(yhat) / (f_yhat - epsilon), [N, K].

    Started from here, `w * gradient` is the elasticity of the predicted raw logit: the relative change of the logit
    for a relative change of the weight.
    """
    op, chosen = network.op, predicted_class(network.op, network.output)
    logit = op.ReduceSum(op.Mul(network.output, chosen), [1], keepdims=1)
    return op.Div(chosen, op.Sub(logit, EPSILON))
