"""Is the data what the network takes? Asked before anything runs on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from sparsense.autodiff.shapes import dims
from sparsense.errors import InputError
from sparsense.graph.forward import ForwardGraph


def check_inputs(network: ForwardGraph, inputs: NDArray[Any], name: str) -> None:
    """Refuse inputs of another type or shape than the detector will take; free sizes fit any.

    Args:
        network: With its preprocessing.
        inputs: As the detector takes them, [N, ...].
        name: Of the data, for the error.

    Raises:
        InputError: They do not fit.
    """
    wanted, dtype = dims(network.input)[1:], str(network.input.dtype).lower().replace("float", "float32")
    fits = len(wanted) == inputs.ndim - 1 and all(
        size == found for size, found in zip(wanted, inputs.shape[1:], strict=True) if isinstance(size, int)
    )
    if not fits or inputs.dtype != dtype:
        raise InputError(
            f"reading {name!r}: expected inputs {in_words(['N', *wanted])} of {dtype} as this network takes them, "
            f"found {in_words(['N', *inputs.shape[1:]])} of {inputs.dtype}; give data that fits the network"
        )


def in_words(sizes: Sequence[Any]) -> str:
    """A shape for a message: numbers, names of free sizes, and ? where there is none."""
    return f"[{', '.join(str(getattr(size, 'value', size) or '?') for size in sizes)}]"
