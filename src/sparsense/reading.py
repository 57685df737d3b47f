"""One error for everything that a damaged model makes other libraries raise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from google.protobuf.message import DecodeError, EncodeError
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError
from onnx.version_converter import ConvertError

from sparsense.errors import GraphError, SparsenseError

# What onnx, onnx-ir and numpy raise when names, types, sizes or bytes of a file contradict each other.
UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ConvertError,
    DecodeError,
    EncodeError,
    InferenceError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValidationError,
    ValueError,
)


@contextmanager
def reading(doing: str) -> Iterator[None]:
    """Turn what others raise about a file's content into a GraphError that says what was being done.

    Args:
        doing: What is done with which file, such as `reading model.onnx`.
    """
    try:
        yield
    except SparsenseError:
        raise
    except UNREADABLE as error:
        raise GraphError(
            f"{doing}: expected a valid ONNX model, found one that contradicts itself "
            f"({type(error).__name__}: {first_line(error)}); export the model again"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, without the traces that some libraries add."""
    return next(iter(str(error).strip().splitlines()), "no details")[:300]
