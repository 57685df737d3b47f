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

from sparsense.benchmark.machine import this_machine
from sparsense.errors import GraphError, InputError
from sparsense.graph import load_graph
from sparsense.graph.simplify import simplify
from sparsense.reading import first_line

PREPARED = (
    "onnx.quant.pre_process",
    "onnxruntime.quant",
)  # what the tool looks for: batch norms are folded, shapes known
EXACT = {"avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp"}
"""Instruction sets that add products of bytes in 32 bits. Others add pairs of them in 16 first, which overflow."""


def to_int8(
    model: str | Path | bytes | onnx.ModelProto,
    samples: NDArray[np.float32],
    *,
    batch_size: int = 32,
    reduce_range: bool | None = None,
) -> bytes:
    """A forward network whose convolutions and matrix products work on eight-bit numbers.

    The range of every activation is the smallest and the largest that the samples reach. Heads that read outputs or
    features attach to the result; those that differentiate need the float32 network.

    Args:
        model: A forward graph with one float32 input.
        samples: Calibration inputs as the network itself takes them, after preprocessing.
        batch_size: Samples at a time.
        reduce_range: Weights of seven bits, for processors whose sums of products overflow otherwise; None: as this
            machine needs it. A file for another machine is made on that one, or with True.

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
        narrow = overflows() if reduce_range is None else reduce_range
        try:
            quantize_static(
                proto, str(output), _reader(proto.graph.input[0].name, samples, batch_size),
                quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=narrow, activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )  # fmt: skip
        except (ValueError, RuntimeError, AttributeError, NotImplementedError) as error:
            raise GraphError(f"quantising the network to INT8: {first_line(error)}; keep the float32 one") from error
        return output.read_bytes()


def overflows() -> bool:
    """Whether eight-bit weights would be summed in 16 bits on this machine (x86 without VNNI or AMX)."""
    return not EXACT & set(this_machine().features)


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
