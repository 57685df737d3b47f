"""A head's score of given observations, through the same nodes that go into the file."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.run import Session
from sparsense.heads.head import Array, Head

OPSET = 20


def score_observations(head: Head, observations: Array, *, batch_size: int = 1024) -> Array:
    """Scores [n] of observations [n, D]; the head is fitted."""
    width = observations.shape[1]
    graph = ir.Graph([ir.val("observed", ir.DataType.FLOAT, ["N", width])], [], nodes=[], opset_imports={"": OPSET})
    graph.name = head.name
    score = head.score(Builder(graph), graph.inputs[0])
    session = Session(ir.Model(graph, ir_version=10), [score], threads=1)
    rows = np.ascontiguousarray(observations, np.float32)
    return np.concatenate([session(rows[i : i + batch_size])[0] for i in range(0, len(rows), batch_size)])
