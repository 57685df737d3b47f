"""A head's score of given observations, through the same nodes that go into the file."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from sparsense.graph.build import Builder
from sparsense.graph.run import Session
from sparsense.heads.head import Array, Head

OPSET = 20
AT_ONCE = 1024


def score_observations(head: Head, observations: Array) -> Array:
    """Scores [n] of observations [n, D]; the head is fitted."""
    return score_blocks(head, [observations])


def score_blocks(head: Head, blocks: Iterable[Array]) -> Array:
    """The same of observations that come block by block, [n, D] each."""
    session: Session | None = None
    scores = []
    for block in blocks:
        session = session or _session(head, block.shape[1])
        rows = np.ascontiguousarray(block, np.float32)
        scores += [session(rows[i : i + AT_ONCE])[0] for i in range(0, len(rows), AT_ONCE)]
    return np.concatenate(scores)


def _session(head: Head, width: int) -> Session:
    graph = ir.Graph([ir.val("observed", ir.DataType.FLOAT, ["N", width])], [], nodes=[], opset_imports={"": OPSET})
    graph.name = head.name
    score = head.score(Builder(graph), graph.inputs[0])
    return Session(ir.Model(graph, ir_version=10), [score], threads=1)
