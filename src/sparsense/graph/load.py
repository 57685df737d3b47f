"""Read an ONNX file from a stranger: limits first, then validity, then one working form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx import external_data_helper, inliner, version_converter

from sparsense.errors import GraphError, UnsafeFileError

MINIMUM_OPSET = 18  # reductions take their axes as an input from here on: one form for every rule
WRITTEN_OUT = ("Attention", "MeanVarianceNormalization", "RotaryEmbedding")  # a gradient goes through their parts
MAXIMUM_BYTES = 2 * 1024**3 - 1  # protobuf's own limit for one message


def load_graph(source: str | Path | bytes | onnx.ModelProto, *, maximum_bytes: int = MAXIMUM_BYTES) -> ir.Model:
    """Read, check and normalise a model: external data inside its own folder only, functions inlined, opset >= 18.

    Args:
        source: A path, the bytes of a file, or a model already parsed.
        maximum_bytes: Limit on the file and on the sum of its external data.

    Returns:
        A model in the default opset 18 or newer, without functions, with all weights in memory.

    Raises:
        UnsafeFileError: The file is too large, or refers to data outside its folder.
        GraphError: The file is not a valid ONNX model.
    """
    proto, name = _parse(source, maximum_bytes)
    _check(proto, name)
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    return ir.from_proto(_write_out(_raise_opset(proto, name)))


def _parse(source: str | Path | bytes | onnx.ModelProto, maximum_bytes: int) -> tuple[onnx.ModelProto, str]:
    if isinstance(source, onnx.ModelProto):
        return source, "the model"
    if isinstance(source, bytes):
        proto, name, folder = _decode(source, "the model"), "the model", None
    else:
        path = Path(source)
        if not path.is_file():
            raise GraphError(f"reading an ONNX model: expected a file, found nothing at {path}")
        if path.stat().st_size > maximum_bytes:
            raise UnsafeFileError(
                f"reading {path}: expected at most {maximum_bytes:,} bytes, found {path.stat().st_size:,}; "
                "keep large weights in an external data file beside the model"
            )
        proto, name, folder = _decode(path.read_bytes(), str(path)), str(path), path.resolve().parent
    _load_external_data(proto, name, folder, maximum_bytes)
    return proto, name


def _decode(content: bytes, name: str) -> onnx.ModelProto:
    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise GraphError(f"reading {name}: expected an ONNX model, found something else ({error})") from error
    if not proto.HasField("graph") or not proto.graph.node:
        raise GraphError(f"reading {name}: expected an ONNX model with a graph of nodes, found none")
    return proto


def _load_external_data(proto: onnx.ModelProto, name: str, folder: Path | None, maximum_bytes: int) -> None:
    total = 0
    for tensor in _tensors(proto.graph):
        if not external_data_helper.uses_external_data(tensor):
            continue
        location = external_data_helper.ExternalDataInfo(tensor).location
        if folder is None:
            raise GraphError(
                f"reading {name}: tensor {tensor.name!r} lies in {location!r}; "
                "give the path of the model instead of its bytes"
            )
        path = (folder / location).resolve()
        if Path(location).is_absolute() or not path.is_relative_to(folder):
            raise UnsafeFileError(
                f"reading {name}: tensor {tensor.name!r} points outside the model's folder, to {location!r}; refused"
            )
        if not path.is_file():
            raise GraphError(
                f"reading {name}: the external data file {location!r} of tensor {tensor.name!r} is missing; "
                "put it beside the model"
            )
        total += external_data_helper.ExternalDataInfo(tensor).length or path.stat().st_size
        if total > maximum_bytes:
            raise UnsafeFileError(f"reading {name}: its external data exceeds {maximum_bytes:,} bytes; refused")
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that may lie in another file: initializers, and constants of nodes, also in subgraphs."""
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from [attribute.t] if attribute.HasField("t") else attribute.tensors
        for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            yield from _tensors(inner)


def _check(proto: onnx.ModelProto, name: str) -> None:
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        first = str(error).strip().splitlines()[0]
        raise GraphError(f"checking {name}: expected a valid ONNX model, found: {first}") from error


def _write_out(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Replace operators that are made of others by their parts, as ONNX defines them."""
    if not any(node.op_type in WRITTEN_OUT and node.domain in ("", "ai.onnx") for node in proto.graph.node):
        return proto
    names = [("", op_type) for op_type in WRITTEN_OUT]
    return inliner.inline_selected_functions(proto, names, inline_schema_functions=True)


def default_opset(proto: onnx.ModelProto) -> int:
    """The version of the default domain that a model imports."""
    return next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _raise_opset(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    opset = default_opset(proto)
    if opset >= MINIMUM_OPSET:
        return proto
    try:
        return version_converter.convert_version(proto, MINIMUM_OPSET)
    except RuntimeError as error:  # the converter's only way to say that an operator has no adapter
        first = str(error).strip().splitlines()[0]
        raise GraphError(
            f"reading {name}: opset {opset} cannot be brought to {MINIMUM_OPSET} ({first}); "
            "export the model again with a newer opset"
        ) from error
