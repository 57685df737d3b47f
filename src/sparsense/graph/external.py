"""Weights in other files: only from beside the model, only as much as is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import external_data_helper

from sparsense.errors import GraphError, UnsafeFileError


def load_external_data(proto: onnx.ModelProto, name: str, folder: Path | None, maximum_bytes: int) -> None:
    """Bring all tensors that lie in other files into memory, in place.

    Args:
        proto: The model.
        name: What messages call it.
        folder: The model's own; None when only its bytes are known.
        maximum_bytes: Limit on the sum.

    Raises:
        UnsafeFileError: A location outside the folder (absolute, `..`, a link), or too much data.
        GraphError: A file is missing, too short, or was not expected.
    """
    total = 0
    for tensor in tensors(proto):
        if not external_data_helper.uses_external_data(tensor):
            continue
        path, length = _locate(tensor, name, folder, maximum_bytes)
        total += length
        if total > maximum_bytes:
            raise UnsafeFileError(
                f"reading {name}: its external data exceeds {maximum_bytes:,} bytes with tensor {tensor.name!r}; "
                "store the model in a smaller type, or raise the limit"
            )
        external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _locate(tensor: onnx.TensorProto, name: str, folder: Path | None, maximum_bytes: int) -> tuple[Path, int]:
    """The folder's file and how many bytes of it the tensor takes."""
    info = external_data_helper.ExternalDataInfo(tensor)
    location, found = info.location, f"reading {name}: tensor {tensor.name!r}"
    if folder is None:
        raise GraphError(f"{found} lies in {location!r}; give the path of the model instead of its bytes")
    path = folder / location
    if Path(location).is_absolute() or not path.resolve().is_relative_to(folder) or path.is_symlink():
        raise UnsafeFileError(
            f"{found} points outside the model's folder, to {location!r}; refused: put the data file itself beside it"
        )
    if not path.is_file():
        raise GraphError(
            f"reading {name}: the external data file {location!r} of tensor {tensor.name!r} is missing; "
            "put it beside the model"
        )
    size, start = path.stat().st_size, info.offset or 0
    length = size - start if info.length is None else info.length
    if start < 0 or length < 0 or (start + length > size and length <= maximum_bytes):
        raise GraphError(
            f"{found}: expected {length:,} bytes from {start:,} on in {location!r}, found a file of {size:,} bytes; "
            "copy the complete data file"
        )
    return path, length


def tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that may lie in another file: initializers, and constants of nodes, functions and subgraphs."""
    yield from _of_graph(proto.graph)
    for function in proto.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from [attribute.t] if attribute.HasField("t") else attribute.tensors
        for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            yield from _of_graph(inner)
