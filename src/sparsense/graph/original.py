"""A model exactly as it was given, to compare with: nothing converted, its own batch size, its own precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from sparsense.errors import GraphError
from sparsense.graph.batch import in_batches
from sparsense.graph.channels import channels_last
from sparsense.graph.load import Source, parse
from sparsense.graph.precision import is_half
from sparsense.graph.run import Session

TOLERANCE = 1e-4  # of the largest output: folding batch norms and constants rounds differently
HALF_TOLERANCE = 2e-2  # where the file itself computes with three digits
Array = NDArray[Any]


class Original:
    """The network's answers as the file gives them.

    Args:
        source: The file.
        output: The value that is the answer; default: the first output.

    Attributes:
        tolerance: Within which another form of it has to agree, relative to the largest output.

    Raises:
        GraphError: ONNX Runtime cannot run the file as it is.
    """

    def __init__(self, source: Source, output: str | None = None) -> None:
        proto, name = parse(source)
        self.tolerance = HALF_TOLERANCE if is_half(proto) else TOLERANCE
        weights = {tensor.name for tensor in proto.graph.initializer}
        inputs = [value for value in proto.graph.input if value.name not in weights]
        if len(inputs) != 1:
            raise GraphError(f"running {name} as it is: expected one input, found {len(inputs)}; export it with one")
        tensor = inputs[0].type.tensor_type
        self._dtype, self._input = helper.tensor_dtype_to_np_dtype(tensor.elem_type), inputs[0].name
        self._fixed = tensor.shape.dim[0].dim_value if tensor.shape.dim else 0
        self._last = channels_last([dim.dim_value for dim in tensor.shape.dim])
        self._session = Session(_with_output(proto, output).SerializeToString(), threads=1)

    def __call__(self, inputs: Array) -> NDArray[np.float32]:
        """Inputs, float32 `[n, ...]` -> answers `[n, ...]`; channels come second, wherever the file has them."""
        given = np.ascontiguousarray(np.moveaxis(inputs, 1, -1) if self._last else inputs, self._dtype)
        found = in_batches(self._session, given, self._fixed) if self._fixed else self._session(given)[0]
        answer = np.asarray(found, np.float32)
        return np.moveaxis(answer, -1, 1) if self._last and channels_last(answer.shape) else answer


def _with_output(proto: onnx.ModelProto, name: str | None) -> onnx.ModelProto:
    """A copy that answers with one value, which may lie inside."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    kept = [value for value in proto.graph.output if value.name == name] or [onnx.ValueInfoProto(name=name)]
    del changed.graph.output[:]
    changed.graph.output.extend(kept if name else proto.graph.output[:1])
    return changed
