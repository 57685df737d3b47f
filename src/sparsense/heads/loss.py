"""The quantity whose sensitivity a head records, as the gradient that starts the walk back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.autodiff.shapes import dims
from sparsense.graph.build import Builder
from sparsense.graph.forward import ForwardGraph

EPSILON = 1e-8  # keeps the division by a vanishing loss finite, as in the published prototype
LOSSES = ("logit", "cross_entropy")


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


def cross_entropy_seed(network: ForwardGraph) -> ir.Value:
    """The same of the predicted class's cross-entropy: (p - one-hot(yhat)) / (-log p_yhat + epsilon), [N, K].

    With q the odds of all other classes, 1 - p_yhat = q / (1 + q) and the loss is log(1 + q): no digit is lost near 0.
    """
    op, chosen = network.op, predicted_class(network.op, network.output)
    odds = op.Exp(op.Sub(network.output, op.ReduceMax(network.output, [1], keepdims=1)))
    others = op.Mul(odds, op.Sub(1.0, chosen))
    q = op.ReduceSum(others, [1], keepdims=1)
    terms = op.Sub(1.0, op.Mul(q, op.Sub(0.5, op.Mul(q, op.Sub(1 / 3, op.Mul(q, 0.25))))))
    loss = op.Where(op.Less(q, 1e-2), op.Mul(q, terms), op.Log(op.Add(q, 1.0)))
    scale = op.Mul(op.Add(q, 1.0), op.Add(loss, EPSILON))
    return op.Div(op.Sub(others, op.Mul(chosen, q)), scale)


def relative_seed(network: ForwardGraph, loss: str) -> ir.Value:
    """Gradient of the logarithm of a loss with respect to the logits, [N, K]."""
    return elasticity_seed(network) if loss == "logit" else cross_entropy_seed(network)
