"""Reading weights from files that may be hostile, and putting them where they belong."""

from __future__ import annotations

import pickle  # noqa: TID251 - for the name of the exception that a refused pickle raises
import re
import struct
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor, nn

from sparsense.errors import InputError, UnsafeFileError

MAX_BYTES = 4 * 2**30
REMEMBERED = "remembered/"
"""Before the names of tensors that training has kept for a detector, in a file of weights."""
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
# What torch's restricted unpickler raises on bytes that are no pickle.
_DAMAGED = (
    RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, EOFError,
    MemoryError, struct.error, BadZipFile,
)  # fmt: skip


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or a `torch.save`d state dict; no code in it is run.

    A dictionary around the state dict, and the prefixes of wrapped modules, are taken off.

    Raises:
        UnsafeFileError: A pickle of more than tensors, or a file above 4 GiB.
        InputError: No such file, a damaged one, or no tensors.
    """
    content = read_limited(path, MAX_BYTES, doing="reading weights from")
    if path.suffix == ".safetensors":
        return parse_tensors(content, path)
    return _bare(_read_state_dict(content, path), path)


def check_finite(tensors: Mapping[str, Tensor], module: nn.Module, *, doing: str) -> None:
    """Refuse NaN and infinity, except where a buffer of the module itself is infinite, such as a mask of attention.

    Raises:
        InputError: The first such tensor is named.
    """
    buffers = dict(module.named_buffers())
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all() and not _infinite_alike(tensor, buffers.get(name)):
            raise InputError(f"{doing}: tensor {name!r} holds NaN or infinity")


def _infinite_alike(tensor: Tensor, own: Tensor | None) -> bool:
    if own is None or own.shape != tensor.shape:
        return False
    here, there = (torch.where(torch.isfinite(values), 0, values) for values in (tensor, own))
    return torch.equal(here.to(there), there)


def read_limited(path: Path, limit: int, *, doing: str) -> bytes:
    """The bytes of a file of at most `limit` bytes."""
    if not path.is_file():
        raise InputError(f"{doing} {path}: there is no such file")
    size = path.stat().st_size
    if size > limit:
        raise UnsafeFileError(f"{doing} {path}: expected at most {limit} bytes; found {size}")
    return path.read_bytes()


def parse_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        return parse_safetensors(content)
    except SafetensorError as error:
        raise InputError(f"reading weights from {path}: not a whole safetensors file ({error})") from error


def _read_state_dict(content: bytes, path: Path) -> Any:
    try:
        return torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        raise UnsafeFileError(
            f"reading weights from {path}: this pickle holds more than tensors, and loading it would run code"
            f"{f' (it asks for {asked[1]})' if asked else ''}. Where you trust the file, save its tensors alone: "
            "safetensors.torch.save_file(module.state_dict(), 'weights.safetensors')."
        ) from error
    except _DAMAGED as error:
        raise InputError(f"reading weights from {path}: not a whole file of torch.save ({error!r})") from error


def _bare(loaded: Any, path: Path) -> dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InputError(f"reading weights from {path}: expected tensors by name; found {_describe(loaded)}")
    for prefix in _PREFIXES:
        if loaded and all(name.startswith(prefix) for name in loaded):
            loaded = {name.removeprefix(prefix): tensor for name, tensor in loaded.items()}
    return dict(loaded)


def _describe(loaded: Any) -> str:
    if not isinstance(loaded, Mapping):
        return type(loaded).__name__
    return f"a dictionary with the keys {_few(str(key) for key in loaded)}"


def with_remembered(tensors: Mapping[str, Tensor], remembered: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights and what training has kept besides, for one file; `without_remembered` is the inverse."""
    return {**tensors, **{REMEMBERED + name: tensor for name, tensor in remembered.items()}}


def without_remembered(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights, and what training has kept besides."""
    kept = {name.removeprefix(REMEMBERED): t for name, t in tensors.items() if name.startswith(REMEMBERED)}
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(REMEMBERED)}, kept


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, optional: Iterable[str], doing: str) -> None:
    """Copy tensors into the parameters and buffers of the same names, all or none.

    Args:
        module: Changed in place.
        tensors: By the names of the module's state dict.
        optional: Names that may be missing, besides every `num_batches_tracked`.
        doing: Begins the message of an error.

    Raises:
        InputError: Names or shapes differ.
    """
    own = module.state_dict()
    may_miss = {*optional, *(name for name in own if name.endswith("num_batches_tracked"))}
    differences = {
        "missing": sorted(own.keys() - tensors.keys() - may_miss),
        "unexpected": sorted(tensors.keys() - own.keys()),
        "of another shape": [
            f"{name} {list(tensors[name].shape)} instead of {list(tensor.shape)}"
            for name, tensor in own.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ],
    }
    found = "; ".join(f"{len(names)} {kind} ({_few(names)})" for kind, names in differences.items() if names)
    if found:
        raise InputError(
            f"{doing}: the file does not fit this network: {found}. Is it the right one, with its options? "
            "(What save_network wrote is read by load_checkpoint.)"
        )
    module.load_state_dict(dict(tensors), strict=False)


def _few(names: Iterable[str], limit: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
