"""Tensors with many zeros, stored as one bit per number and the numbers that are not zero."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from sparsense.errors import InputError, UnsafeFileError

MASK, VALUES = "/mask", "/values"
ENTRY_BYTES = 150  # what one more entry in a file's header costs, about
Shapes = Mapping[str, tuple[int, ...]]


def packed_size(tensor: Tensor, kept: int) -> int:
    """Bytes that a tensor with `kept` numbers other than zero takes in a file: the smaller of the two forms."""
    dense = tensor.numel() * tensor.element_size()
    return min(dense, math.ceil(tensor.numel() / 8) + kept * tensor.element_size() + ENTRY_BYTES)


def pack(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, tuple[int, ...]]]:
    """Store those tensors as bits and values that become smaller by it.

    Args:
        tensors: By name.

    Returns:
        What goes into the file, and the shapes of the tensors that were packed.

    Example:
        >>> stored, shapes = pack({"w": torch.eye(64)})
        >>> sorted(stored), shapes
        (['w/mask', 'w/values'], {'w': (64, 64)})
    """
    stored: dict[str, Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().flatten()
        present = _present(flat)
        if packed_size(tensor, int(present.sum())) < tensor.numel() * tensor.element_size():
            stored[name + MASK] = _bytes_of(present)
            stored[name + VALUES] = flat[present]
            shapes[name] = tuple(tensor.shape)
        else:
            stored[name] = flat.reshape(tensor.shape).clone()
    return stored, shapes


def unpack(stored: Mapping[str, Tensor], shapes: Shapes, *, limit: int, doing: str) -> dict[str, Tensor]:
    """The tensors that `pack` was given, bit for bit.

    Args:
        stored: What the file holds.
        shapes: Of the packed tensors.
        limit: Most bytes that they may take.
        doing: Begins the message of an error.

    Raises:
        UnsafeFileError: The packed tensors are larger than the limit.
        InputError: Masks and values do not fit the shapes.
    """
    if (size := sum(8 * math.prod(shape) for shape in shapes.values())) > limit:
        raise UnsafeFileError(f"{doing}: its packed tensors would take up to {size} bytes; allowed are {limit}")
    tensors = {key: tensor for key, tensor in stored.items() if _owner(key) not in shapes}
    for name, shape in shapes.items():
        if name + MASK not in stored or name + VALUES not in stored:
            raise InputError(f"{doing}: the bits or values of {name!r} are missing")
        tensors[name] = _expanded(stored[name + MASK], stored[name + VALUES], shape, f"{doing}: {name!r}")
    return tensors


def unpack_like(own: Mapping[str, Tensor], stored: Mapping[str, Tensor], *, doing: str) -> dict[str, Tensor]:
    """The tensors of a file that may hold packed ones, which get the shapes of a network's own tensors."""
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items() if name + MASK in stored}
    limit = sum(8 * tensor.numel() for tensor in own.values())
    return unpack(stored, shapes, limit=limit, doing=doing)


def _expanded(mask: Tensor, values: Tensor, shape: tuple[int, ...], what: str) -> Tensor:
    count = math.prod(shape)
    if mask.dtype != torch.uint8 or mask.shape != (math.ceil(count / 8),) or values.ndim != 1:
        raise InputError(f"{what} should be {count} bits and a row of values; found {list(mask.shape)} of {mask.dtype}")
    bits = _bits_of(mask)
    if int(bits.sum()) != len(values) or bool(bits[count:].any()):
        raise InputError(f"{what}: {int(bits.sum())} bits are set for {len(values)} values")
    flat = torch.zeros(count, dtype=values.dtype)
    flat[bits[:count]] = values
    return flat.reshape(shape)


def _bytes_of(bits: Tensor) -> Tensor:
    """Eight bits to a byte, the first one lowest."""
    rows = functional.pad(bits.to(torch.uint8), (0, -len(bits) % 8)).reshape(-1, 8)
    return (rows << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def _bits_of(data: Tensor) -> Tensor:
    """The inverse of `_bytes_of`, up to 7 bits longer."""
    return ((data[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten().bool()


def _present(flat: Tensor) -> Tensor:
    """Where a number is not +0; a negative zero counts, so that nothing changes."""
    return (flat != 0) | torch.signbit(flat)


def _owner(key: str) -> str:
    for suffix in (MASK, VALUES):
        if key.endswith(suffix):
            return key.removesuffix(suffix)
    return key
