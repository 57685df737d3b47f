"""An ONNX file in its smaller form, kept only where ONNX Runtime computes the same with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

from sparsense.graph.sparse import with_sparse_weights

WORTH_IT = 0.05
"""Least share of a file that sparse weights must save; other tools read dense files more often."""
_ort = ort.capi.onnxruntime_pybind11_state
REFUSALS: tuple[type[Exception], ...] = (_ort.Fail, _ort.InvalidGraph, _ort.InvalidArgument, _ort.NotImplemented)
"""What ONNX Runtime raises when it cannot load a file."""
Feed = Mapping[str, NDArray[Any]]


def smaller_form(content: bytes, feed: Feed, name: str) -> tuple[bytes, str]:
    """The file with sparse weights, where that is smaller and the installed ONNX Runtime runs it; and what was done.

    Args:
        content: An ONNX file.
        feed: Inputs on which the outputs of both forms must be the same.
        name: What the sentence calls the file.

    Returns:
        The file, and a sentence for people ("" when there was nothing to gain).
    """
    model = onnx.load_model_from_string(content)
    _drop_signs_of_zeros(model)
    sparse = with_sparse_weights(model).SerializeToString()
    if len(sparse) > (1 - WORTH_IT) * len(content):
        return content, ""
    try:
        same = _same_outputs(sparse, content, feed)
    except REFUSALS as error:
        return content, f"{name} is dense: ONNX Runtime {ort.__version__} does not load sparse weights ({error})."
    if not same:
        return content, f"{name} is dense: ONNX Runtime {ort.__version__} computes something else sparse."
    saved = 1 - len(sparse) / len(content)
    return sparse, f"{name} stores its zeros sparse, which takes {saved:.0%} off the file and nothing off the time."


def _same_outputs(one: bytes, other: bytes, feed: Feed) -> bool:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: a threshold that can be overridden is not worth a warning
    options.intra_op_num_threads = 1
    left, right = (
        ort.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, dict(feed))
        for content in (one, other)
    )
    return all(_same(a, b) for a, b in zip(left, right, strict=True))


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _drop_signs_of_zeros(model: onnx.ModelProto) -> None:
    """Zeros times a negative scale of a batch norm are negative zeros, which a sparse weight would have to store."""
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            if (np.signbit(array) & (array == 0)).any():
                tensor.CopyFrom(numpy_helper.from_array(array + np.float32(0), tensor.name))
