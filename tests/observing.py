"""Networks made of one thing, so that a head's formula can be checked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from sparsense.data.preprocessing import Preprocessing
from sparsense.graph import Builder, ForwardGraph, Session, forward_graph
from sparsense.heads import Head
from sparsense.heads.evaluate import score_observations

ROWS = Preprocessing("ND", "float32", 1.0)


def linear_network(weight: Any, bias: Any) -> ForwardGraph:
    """f = x W + b: the input is the features."""
    weight, bias = np.asarray(weight, np.float32), np.asarray(bias, np.float32)
    graph = ir.Graph([ir.val("x", ir.DataType.FLOAT, ["N", len(weight)])], [], nodes=[], opset_imports={"": 20})
    graph.name = "linear"
    graph.outputs.append(Builder(graph).Gemm(graph.inputs[0], weight, bias))
    return forward_graph(ir.Model(graph, ir_version=10), ROWS)


def on_features(head: Head, weight: Any, bias: Any, fit: Any, test: Any, labels: Any = None) -> np.ndarray:
    """Scores of features `test` [n, F], by a head fitted on features `fit`."""
    network = linear_network(weight, bias)
    session = Session(network.model, [head.observe(network)], threads=1)
    observe = lambda rows: session(np.asarray(rows, np.float32))[0]  # noqa: E731
    if head.learns:
        head.fit([observe(fit)], None if labels is None else np.asarray(labels))
    return score_observations(head, observe(test))
