"""An ONNX file in its smaller form, kept only where ONNX Runtime computes the same with it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from sparsense.benchmark.onnx_cost import random_feed
from sparsense.graph.sparse import with_sparse_weights

WORTH_IT = 0.05
"""Least share of a file that sparse weights must save; other tools read dense files more often."""
_ort = ort.capi.onnxruntime_pybind11_state
REFUSALS: tuple[type[Exception], ...] = (_ort.Fail, _ort.InvalidGraph, _ort.InvalidArgument, _ort.NotImplemented)
"""What ONNX Runtime raises when it cannot load a file."""


def smaller_form(content: bytes) -> tuple[bytes, str]:
    """The file with sparse weights, where that is smaller and the installed ONNX Runtime runs it; and what was done.

    Args:
        content: An ONNX file with a free batch axis.

    Returns:
        The file, and a sentence for people ("" when there was nothing to gain).
    """
    sparse = with_sparse_weights(onnx.load_model_from_string(content)).SerializeToString()
    if len(sparse) > (1 - WORTH_IT) * len(content):
        return content, ""
    try:
        same = _same_outputs(sparse, content)
    except REFUSALS as error:
        return content, f"network.onnx is dense: ONNX Runtime {ort.__version__} does not load sparse weights ({error})."
    if not same:
        return content, f"network.onnx is dense: ONNX Runtime {ort.__version__} computes something else sparse."
    saved = 1 - len(sparse) / len(content)
    return (
        sparse,
        f"network.onnx stores its zeros sparse, which takes {saved:.0%} off the file and nothing off the time.",
    )


def _same_outputs(one: bytes, other: bytes) -> bool:
    sessions = [ort.InferenceSession(content, providers=["CPUExecutionProvider"]) for content in (one, other)]
    feed = random_feed(sessions[0], 3)
    left, right = (session.run(None, feed) for session in sessions)
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))
