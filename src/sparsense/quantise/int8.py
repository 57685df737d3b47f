"""Static INT8 quantisation by ONNX Runtime's own tool: activations U8, weights S8 per output channel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from sparsense.errors import GraphError, InputError
from sparsense.graph import load_graph
from sparsense.graph.simplify import simplify
from sparsense.reading import first_line

PREPARED = (
    "onnx.quant.pre_process",
    "onnxruntime.quant",
)  # what the tool looks for: batch norms are folded, shapes known


def to_int8(
    model: str | Path | bytes | onnx.ModelProto, samples: NDArray[np.float32], *, batch_size: int = 32
) -> bytes:
    """A forward network whose convolutions and matrix products work on eight-bit numbers.

    The range of every activation is the smallest and the largest that the samples reach. Heads that read outputs or
    features attach to the result; those that differentiate need the float32 network.

    Args:
        model: A forward graph with one float32 input.
        samples: Calibration inputs as the network itself takes them, after preprocessing.
        batch_size: Samples at a time.

    Returns:
        The serialised model, with QuantizeLinear and DequantizeLinear around what runs in INT8.

    Raises:
        InputError: No samples, or numbers among them that are not finite.
        GraphError: The tool cannot quantise the model; with its reason.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    if not len(samples) or not np.isfinite(samples).all():
        raise InputError(f"quantising: expected finite calibration samples, at least one; found {samples.shape}")
    proto = ir.to_proto(simplify(load_graph(model)))
    proto.metadata_props.add(key=PREPARED[0], value=PREPARED[1])
    with TemporaryDirectory() as folder:
        output = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                proto, str(output), _reader(proto.graph.input[0].name, samples, batch_size),
                quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )  # fmt: skip
        except (ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
            raise GraphError(f"quantising the network to INT8: {first_line(error)}; keep the float32 one") from error
        return output.read_bytes()


def _reader(name: str, samples: NDArray[np.float32], batch_size: int) -> Any:
    """Batches in the form that the tool asks for."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[NDArray[np.float32]] = (
                samples[start : start + batch_size] for start in range(0, len(samples), batch_size)
            )

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: batch}

    return Reader()
