"""Read an ONNX file from a stranger: limits first, then validity, then one working form."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx import inliner, version_converter

from sparsense.errors import GraphError, UnsafeFileError
from sparsense.graph.external import load_external_data
from sparsense.graph.names import name_nodes
from sparsense.graph.precision import to_single
from sparsense.graph.sparse import with_dense_weights
from sparsense.reading import first_line, reading

MINIMUM_OPSET = 18  # reductions take their axes as an input from here on: one form for every rule
MINIMUM_IR = 4  # weights need not be graph inputs from here on
WRITTEN_OUT = ("Attention", "MeanVarianceNormalization", "RotaryEmbedding")  # a gradient goes through their parts
MAXIMUM_BYTES = 2 * 1024**3 - 1  # protobuf's own limit for one message
Source = str | Path | bytes | onnx.ModelProto


def load_graph(source: Source, *, maximum_bytes: int = MAXIMUM_BYTES) -> ir.Model:
    """Read, check and normalise a model: one form for everything that is done with graphs.

    External data is read from the model's own folder only, functions are inlined, the opset is raised to 18, weights
    that old files list among the inputs are constants, half precision becomes float32.

    Args:
        source: A path, the bytes of a file, or a model already parsed.
        maximum_bytes: Limit on the file and on the sum of its external data.

    Returns:
        A model in the default opset 18 or newer, without functions, with all weights in memory.

    Raises:
        UnsafeFileError: The file is too large, or refers to data outside its folder.
        GraphError: The file is not a valid ONNX model.
    """
    proto, name = parse(source, maximum_bytes=maximum_bytes)
    with reading(f"reading {name}"):
        proto = _with_shapes(proto)
        _check(proto, name)
        if proto.functions:
            proto = inliner.inline_local_functions(proto)
        proto = to_single(_write_out(_raise_opset(_weights_are_constants(proto), name)))
        model = ir.from_proto(without_maps(proto))
        name_nodes(model.graph)
        return model


def parse(source: Source, *, maximum_bytes: int = MAXIMUM_BYTES) -> tuple[onnx.ModelProto, str]:
    """The model as it was given, with all weights in memory, and what messages call it.

    Raises:
        UnsafeFileError: The file is too large, or refers to data outside its folder.
        GraphError: The file is not an ONNX model.
    """
    if isinstance(source, onnx.ModelProto):
        return with_dense_weights(source, "the model", maximum_bytes=maximum_bytes), "the model"
    if isinstance(source, bytes):
        proto, name, folder = _decode(source, "the model"), "the model", None
    else:
        path = Path(source)
        proto, name, folder = _decode(_read(path, maximum_bytes), str(path)), str(path), path.resolve().parent
    with reading(f"reading {name}"):
        load_external_data(proto, name, folder, maximum_bytes)
        return with_dense_weights(proto, name, maximum_bytes=maximum_bytes), name


def _read(path: Path, maximum_bytes: int) -> bytes:
    if not path.is_file():
        raise GraphError(f"reading an ONNX model: expected a file, found nothing at {path}")
    if path.stat().st_size > maximum_bytes:
        raise UnsafeFileError(
            f"reading {path}: expected at most {maximum_bytes:,} bytes, found {path.stat().st_size:,}; "
            "keep large weights in an external data file beside the model"
        )
    return path.read_bytes()


def _decode(content: bytes, name: str) -> onnx.ModelProto:
    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise GraphError(f"reading {name}: expected an ONNX model, found something else ({error})") from error
    if not proto.HasField("graph") or not proto.graph.node:
        raise GraphError(f"reading {name}: expected an ONNX model with a graph of nodes, found none")
    return proto


def _check(proto: onnx.ModelProto, name: str) -> None:
    if default_opset(proto) < 1:
        raise GraphError(
            f"checking {name}: expected a version of ONNX's own operators, found that it imports "
            f"{[entry.domain for entry in proto.opset_import]} alone; export the model again"
        )
    if default_opset(proto) > onnx.defs.onnx_opset_version():
        raise GraphError(
            f"checking {name}: expected an opset of at most {onnx.defs.onnx_opset_version()}, found "
            f"{default_opset(proto)}; install a newer onnx, or export the model with an older opset"
        )
    if proto.graph.sparse_initializer:
        sparse = proto.graph.sparse_initializer[0].values.name
        raise GraphError(f"checking {name}: expected dense weights, found {sparse!r} stored as sparse; store it dense")
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise GraphError(f"checking {name}: expected a valid ONNX model, found: {first_line(error)}") from error


def _with_shapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes of its outputs inferred, where the file leaves them out as some converters do."""
    if all(value.type.tensor_type.HasField("shape") for value in proto.graph.output):
        return proto
    return onnx.shape_inference.infer_shapes(proto)


def without_maps(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Tables from labels to numbers, as classical learners give them, lose their type: no head can use them."""
    values = [*proto.graph.output, *proto.graph.value_info]
    if all(value.type.WhichOneof("value") in ("tensor_type", "optional_type", None) for value in values):
        return proto
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for value in (*changed.graph.output, *changed.graph.value_info):
        if value.type.WhichOneof("value") not in ("tensor_type", "optional_type"):
            value.ClearField("type")
    return changed


def _weights_are_constants(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Old files list their weights among the inputs, with the numbers as default: they are not given at run time."""
    given = {tensor.name for tensor in proto.graph.initializer}
    if not any(value.name in given for value in proto.graph.input):
        return proto
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    inputs = [value for value in proto.graph.input if value.name not in given]
    del changed.graph.input[:]
    changed.graph.input.extend(inputs)
    changed.ir_version = max(changed.ir_version, MINIMUM_IR)
    return changed


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
        raise GraphError(
            f"reading {name}: opset {opset} cannot be brought to {MINIMUM_OPSET} ({first_line(error)}); "
            "export the model again with a newer opset"
        ) from error
