"""Weights with many zeros, stored as the numbers that are not zero and where they lie: ONNX's sparse initializers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sparsense.errors import GraphError, UnsafeFileError

INDEX_BYTES = 8
ENTRY_BYTES = 64  # what one more tensor costs in a file, about


def with_sparse_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with those float weights stored sparse that become smaller by it: two thirds zeros, or more.

    ONNX Runtime expands them when it loads the file, so it computes the same at the same speed.

    Args:
        model: Not changed.
    """
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    dense = list(twin.graph.initializer)
    del twin.graph.initializer[:]
    for tensor in dense:
        stored = _sparse(tensor)
        if stored is None:
            twin.graph.initializer.append(tensor)
        else:
            twin.graph.sparse_initializer.append(stored)
    return twin


def with_dense_weights(model: onnx.ModelProto, name: str, *, maximum_bytes: int) -> onnx.ModelProto:
    """The same model with all weights dense; the model itself when they are.

    Args:
        model: Not changed.
        name: What messages call it.
        maximum_bytes: Limit on what the weights take when they are expanded.

    Raises:
        UnsafeFileError: They take more.
        GraphError: Indices that do not fit the shape.
    """
    if not model.graph.sparse_initializer:
        return model
    if (size := sum(8 * math.prod(entry.dims) for entry in model.graph.sparse_initializer)) > maximum_bytes:
        raise UnsafeFileError(f"reading {name}: its sparse weights would take up to {size:,} bytes; "
                              f"allowed are {maximum_bytes:,}")  # fmt: skip
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    del twin.graph.sparse_initializer[:]
    twin.graph.initializer.extend(_dense(entry, name) for entry in model.graph.sparse_initializer)
    return twin


def _sparse(tensor: onnx.TensorProto) -> onnx.SparseTensorProto | None:
    if tensor.data_type != onnx.TensorProto.FLOAT or not tensor.dims:
        return None
    array = numpy_helper.to_array(tensor)
    places = np.flatnonzero((array != 0) | np.signbit(array))  # a negative zero counts, so that nothing changes
    if not len(places) or len(places) * (array.itemsize + INDEX_BYTES) + ENTRY_BYTES >= array.nbytes:
        return None
    values = numpy_helper.from_array(array.reshape(-1)[places], tensor.name)
    indices = numpy_helper.from_array(places.astype(np.int64), f"{tensor.name}_indices")
    return helper.make_sparse_tensor(values, indices, list(array.shape))


def _dense(entry: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    values, places = numpy_helper.to_array(entry.values), numpy_helper.to_array(entry.indices)
    shape = tuple(entry.dims)
    flat = _flat(places, shape)
    if values.ndim != 1 or flat is None or len(flat) != len(values):
        raise GraphError(f"reading {name}: the indices of the sparse weight {entry.values.name!r} do not fit its shape "
                         f"{list(shape)}")  # fmt: skip
    array = np.zeros(math.prod(shape), values.dtype)
    array[flat] = values
    return numpy_helper.from_array(array.reshape(shape), entry.values.name)


def _flat(places: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any] | None:
    """Indices into the flattened weight, from either of the two forms; None when one lies outside."""
    if min(shape, default=0) < 1 or places.dtype != np.int64:
        return None
    if places.ndim == 2 and places.shape[1] == len(shape):
        inside = ((places >= 0) & (places < np.asarray(shape))).all()
        return np.ravel_multi_index(tuple(places.T), shape) if inside else None
    if places.ndim == 1 and ((places >= 0) & (places < math.prod(shape))).all():
        return places
    return None
